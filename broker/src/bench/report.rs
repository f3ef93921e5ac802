//! The result of a run: a few lines for people, JSON for programs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::cpu::CpuTimes;
use super::measure::{DISCONNECTED, Sample, TIMED_OUT};

/// What one run found. Times are milliseconds unless the name says otherwise.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Report {
    /// `send-closed`, `send-open`, `consume` or `failover`.
    pub(crate) mode: String,
    /// Topic.
    pub(crate) topic: String,
    /// Connections used.
    pub(crate) connections: usize,
    /// Requests in flight per connection; the bound in an open loop.
    pub(crate) window: u32,
    /// Bytes of a message body.
    pub(crate) size_bytes: usize,
    /// Messages in one request.
    pub(crate) batch: usize,
    /// Messages a second that were to be sent; open loop only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate_wanted: Option<u64>,
    /// Length of the measurement.
    pub(crate) seconds: f64,
    /// Messages acknowledged, or received, within it.
    pub(crate) messages: u64,
    /// The same per second.
    pub(crate) messages_per_second: f64,
    /// Body megabytes (10^6) per second.
    pub(crate) megabytes_per_second: f64,
    /// Request to acknowledgement; due time to acknowledgement in an open loop; born to received for `consume`.
    pub(crate) latency_ms: Latency,
    /// Failed requests by response code; `timeout` and `disconnected` had no answer.
    pub(crate) errors: BTreeMap<String, u64>,
    /// CPU time.
    pub(crate) cpu: CpuUse,
    /// `consume` only: queue offsets that were skipped or came twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offset_faults: Option<u64>,
    /// `failover` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failover: Option<Gaps>,
}

/// Percentiles.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Latency {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// CPU seconds used within the measurement, and microseconds per message.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct CpuUse {
    pub(crate) tool_seconds: f64,
    pub(crate) tool_us_per_message: f64,
    /// By process id.
    pub(crate) servers_seconds: BTreeMap<u32, f64>,
    /// All servers together; nothing without `--pids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) servers_us_per_message: Option<f64>,
}

/// Times without an acknowledgement.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Gaps {
    /// The longest.
    pub(crate) longest_ms: f64,
    /// When it began, milliseconds after the start.
    pub(crate) longest_at_ms: f64,
    /// All above 100 ms, in order, as (start, length).
    pub(crate) over_100_ms: Vec<(f64, f64)>,
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Latency {
        let ms = |us: u64| us as f64 / 1000.0;
        if histogram.is_empty() {
            return Latency::default();
        }
        Latency {
            mean: histogram.mean() / 1000.0,
            p50: ms(histogram.value_at_quantile(0.5)),
            p90: ms(histogram.value_at_quantile(0.9)),
            p99: ms(histogram.value_at_quantile(0.99)),
            p999: ms(histogram.value_at_quantile(0.999)),
            max: ms(histogram.max()),
        }
    }
}

impl Report {
    /// Fills in what all modes measure.
    pub(crate) fn measured(mut self, sample: &Sample, cpu: &CpuTimes, seconds: f64) -> Report {
        let per_message = |cpu_seconds: f64| cpu_seconds * 1e6 / (sample.messages.max(1) as f64);
        self.seconds = seconds;
        self.messages = sample.messages;
        self.messages_per_second = sample.messages as f64 / seconds.max(1e-9);
        self.megabytes_per_second = sample.bytes as f64 / seconds.max(1e-9) / 1e6;
        self.latency_ms = Latency::of(sample.latency_us());
        self.errors = sample
            .errors
            .iter()
            .map(|(key, count)| (error_name(*key), *count))
            .collect();
        self.cpu = CpuUse {
            tool_seconds: cpu.tool,
            tool_us_per_message: per_message(cpu.tool),
            servers_seconds: cpu.servers.clone(),
            servers_us_per_message: (!cpu.servers.is_empty()).then(|| per_message(cpu.servers_total())),
        };
        self
    }

    /// Prints the result, and writes it where asked.
    pub(crate) fn finish(&self, json: Option<&Path>) -> anyhow::Result<()> {
        print!("{}", self.text());
        if let Some(path) = json {
            let text = serde_json::to_string_pretty(self)?;
            std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    fn text(&self) -> String {
        let l = &self.latency_ms;
        let mut text = format!(
            "{}: {:.0} messages/s, {:.1} MB/s ({} messages in {:.1} s)\n\
             latency ms: p50 {:.3}  p90 {:.3}  p99 {:.3}  p99.9 {:.3}  max {:.3}  mean {:.3}\n\
             cpu us/message: tool {:.2}",
            self.mode,
            self.messages_per_second,
            self.megabytes_per_second,
            self.messages,
            self.seconds,
            l.p50,
            l.p90,
            l.p99,
            l.p999,
            l.max,
            l.mean,
            self.cpu.tool_us_per_message,
        );
        if let Some(servers) = self.cpu.servers_us_per_message {
            text += &format!("  servers {servers:.2}");
        }
        text += "\n";
        if let Some(gaps) = &self.failover {
            text += &format!(
                "longest time without an acknowledgement: {:.1} ms, from {:.1} ms on; over 100 ms: {}\n",
                gaps.longest_ms,
                gaps.longest_at_ms,
                gaps.over_100_ms.len()
            );
        }
        if let Some(faults) = self.offset_faults {
            text += &format!("queue offsets skipped or repeated: {faults}\n");
        }
        for (name, count) in &self.errors {
            text += &format!("errors: {name}: {count}\n");
        }
        text
    }
}

fn error_name(key: i32) -> String {
    match key {
        TIMED_OUT => "timeout".to_owned(),
        DISCONNECTED => "disconnected".to_owned(),
        code => code.to_string(),
    }
}
