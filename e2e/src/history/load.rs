//! Reads the JSON lines that the Java `Load` program writes into a [`History`].

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{History, Outcome, Place, Receive, Send};

/// A plain send is tried once and retried twice by default.
const PLAIN_TRIES_MAX: usize = 3;

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Line {
    Send {
        value: String,
        keyed: bool,
        result: LineResult,
        queue: Option<u32>,
        offset: Option<i64>,
        begin: u64,
        end: u64,
    },
    Receive {
        value: String,
        queue: u32,
        offset: i64,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum LineResult {
    Ok,
    Failed,
    Unknown,
}

/// Adds the sends and receives of a file to a history.
pub fn read(path: &Path, history: &mut History) -> Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    for line in BufReader::new(file).lines() {
        add(&line?, history)?;
    }
    Ok(())
}

fn add(line: &str, history: &mut History) -> Result<()> {
    match serde_json::from_str(line).with_context(|| format!("read the line {line}"))? {
        Line::Send {
            value,
            keyed,
            result,
            queue,
            offset,
            begin,
            end,
        } => {
            let outcome = match result {
                LineResult::Ok => Outcome::Stored(Place {
                    queue: queue.with_context(|| format!("queue in {line}"))?,
                    offset: offset.with_context(|| format!("offset in {line}"))?,
                }),
                LineResult::Failed => Outcome::Failed,
                LineResult::Unknown => Outcome::Unknown,
            };
            let tries_max = if keyed { 1 } else { PLAIN_TRIES_MAX };
            history.sends.push(Send {
                value,
                outcome,
                tries_max,
                begin,
                end,
            });
        }
        Line::Receive { value, queue, offset } => {
            history.receives.push(Receive {
                place: Place { queue, offset },
                value,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_kind_are_read() {
        let mut history = History::default();
        for line in [
            r#"{"op":"send","producer":"ordered-0","value":"ordered-0/1","keyed":true,"result":"ok","queue":2,"offset":9,"begin":1,"end":2}"#,
            r#"{"op":"send","producer":"plain-0","value":"plain-0/1","keyed":false,"result":"unknown","error":"x","begin":1,"end":2}"#,
            r#"{"op":"send","producer":"ordered-0","value":"ordered-0/2","keyed":true,"result":"failed","error":"x","begin":3,"end":4}"#,
            r#"{"op":"receive","consumer":"c","value":"ordered-0/1","queue":2,"offset":9}"#,
        ] {
            add(line, &mut history).unwrap();
        }
        assert_eq!(history.sends[0].outcome, Outcome::Stored(Place { queue: 2, offset: 9 }));
        assert_eq!((history.sends[0].tries_max, history.sends[1].tries_max), (1, 3));
        assert_eq!(
            (history.sends[1].outcome, history.sends[2].outcome),
            (Outcome::Unknown, Outcome::Failed)
        );
        assert_eq!(history.receives[0].place, Place { queue: 2, offset: 9 });
        assert!(
            add(
                r#"{"op":"send","value":"v","keyed":true,"result":"ok","begin":1,"end":2}"#,
                &mut history
            )
            .is_err()
        );
    }
}
