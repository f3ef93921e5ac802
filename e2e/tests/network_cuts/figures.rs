//! What was measured, one line a trial and a summary at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_e2e::progress;

use crate::scene::Led;

/// Times by what they are of, and elections that the cuts did not ask for.
#[derive(Default)]
pub struct Figures {
    times: BTreeMap<String, Vec<Duration>>,
    elections: Vec<u64>,
}

impl Figures {
    /// Adds a time; returns it in words.
    pub fn add(&mut self, of: &str, time: Duration) -> String {
        self.times.entry(of.to_owned()).or_default().push(time);
        format!("{of} {} ms", time.as_millis())
    }

    /// Adds how long after the end of a cut every lane was served, and everything was whole.
    pub fn add_heal(&mut self, of: &str, [served, whole]: [Duration; 2]) -> String {
        let served = self.add(&format!("{of}: every lane served after the heal"), served);
        let whole = self.add(&format!("{of}: all level after the heal"), whole);
        format!("{served}, {whole}")
    }

    /// Adds how many elections there were in Raft groups whose leader and majority were not cut off: terms at the beginning
    /// and the end of a trial.
    pub fn add_elections(&mut self, before: &[Led], after: &[Led], concerns: impl Fn(&Led) -> bool) -> u64 {
        let led = before.iter().zip(after).filter(|(before, _)| concerns(before));
        let elections = led.map(|(before, after)| after.term - before.term).sum();
        self.elections.push(elections);
        elections
    }

    /// Prints the median and the longest of each time. Fails if cuts usually made leaders change that could have stayed: on a
    /// machine that is too busy to run a node for half a second this happens now and then without any cut.
    pub fn conclude(mut self) {
        for (of, times) in &mut self.times {
            times.sort_unstable();
            let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
            progress::line(format!(
                "{of}: median {} ms, max {} ms of {}",
                median.as_millis(),
                longest.as_millis(),
                times.len()
            ));
        }
        self.elections.sort_unstable();
        progress::line(format!("elections that no cut explains: {:?}", self.elections));
        let median = self.elections.get(self.elections.len() / 2);
        assert_eq!(
            median,
            Some(&0),
            "cuts disturb Raft groups that could go on: {:?}",
            self.elections
        );
    }
}
