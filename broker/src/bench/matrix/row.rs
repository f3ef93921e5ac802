//! One row of the matrix: what was measured and whether it is good enough.

use serde::Serialize;

/// What a value must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Goal {
    /// This much or more.
    AtLeast(f64),
    /// This much or less.
    AtMost(f64),
}

/// A row of the result.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    /// Its name, the same in every file.
    pub(super) id: String,
    /// What the values count.
    pub(super) unit: &'static str,
    /// The goal.
    pub(super) goal: f64,
    /// `higher` or `lower` values are better.
    pub(super) better: &'static str,
    /// Median of the runs.
    pub(super) value: f64,
    /// Each run.
    pub(super) runs: Vec<f64>,
    /// Latency of the run that is the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) p50_ms: Option<f64>,
    /// Latency of the run that is the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) p99_ms: Option<f64>,
    /// All nodes and this tool together, of the run that is the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu_us_per_message: Option<f64>,
    /// Requests that failed, over all runs.
    pub(super) errors: u64,
    /// Whether the goal was reached.
    pub(super) met: bool,
    /// Why there is no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<String>,
}

impl Row {
    /// A row of values without latency.
    pub(super) fn new(id: &str, unit: &'static str, goal: Goal, runs: Vec<f64>) -> Row {
        let value = median_of(&runs).map_or(f64::NAN, |at| runs[at]);
        let (goal, better, met) = match goal {
            Goal::AtLeast(goal) => (goal, "higher", value >= goal),
            Goal::AtMost(goal) => (goal, "lower", value <= goal),
        };
        Row {
            id: id.to_owned(),
            unit,
            goal,
            better,
            value,
            runs,
            p50_ms: None,
            p99_ms: None,
            cpu_us_per_message: None,
            errors: 0,
            met,
            failure: None,
        }
    }

    /// A row that could not be measured.
    pub(super) fn failed(id: &str, why: &str) -> Row {
        Row {
            failure: Some(why.to_owned()),
            met: false,
            value: 0.0,
            ..Row::new(id, "", Goal::AtLeast(0.0), vec![0.0])
        }
    }
}

/// The place of the median; the lower one of two.
pub(super) fn median_of(values: &[f64]) -> Option<usize> {
    let mut places: Vec<usize> = (0..values.len()).collect();
    places.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    places.get(places.len().checked_sub(1)? / 2).copied()
}

/// The rows for people.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<5} {:>12} {:>12} {:<12} {:>9} {:>9} {:>8}  {}\n",
        "row", "value", "goal", "unit", "p50 ms", "p99 ms", "cpu us", "met"
    );
    let shown = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.2}"));
    for row in rows {
        let met = match (&row.failure, row.met) {
            (Some(why), _) => why.as_str(),
            (None, true) => "yes",
            (None, false) => "no",
        };
        text += &format!(
            "{:<5} {:>12.3} {:>12.3} {:<12} {:>9} {:>9} {:>8}  {met}\n",
            row.id,
            row.value,
            row.goal,
            row.unit,
            shown(row.p50_ms),
            shown(row.p99_ms),
            shown(row.cpu_us_per_message)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_run_counts() {
        assert_eq!(median_of(&[3.0, 1.0, 2.0]), Some(2));
        assert_eq!(median_of(&[2.0, 1.0]), Some(1));
        assert_eq!(median_of(&[]), None);
        let row = Row::new("T1", "messages/s", Goal::AtLeast(2.0), vec![3.0, 1.0, 2.0]);
        assert!(row.met && row.value == 2.0 && row.better == "higher");
        assert!(!Row::new("F1", "ms", Goal::AtMost(300.0), vec![301.0]).met);
        assert!(!Row::failed("F1", "no leader").met);
    }
}
