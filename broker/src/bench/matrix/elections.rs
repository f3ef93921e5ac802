//! The row about false elections: nobody dies, and all processors are busy.

use super::super::send;
use super::cluster::Cluster;
use super::row::{Goal, Row};
use super::traffic;

/// Sends as fast as the nodes take them; how many elections the Raft groups held meanwhile, and one more if another
/// controller leads afterwards.
pub(super) fn under_full_load(cluster: &Cluster, seconds: f64) -> anyhow::Result<Row> {
    let leading = cluster.leading_controller()?;
    let before = cluster.terms()?;
    let report = send(&traffic::full_load(cluster, seconds))?;
    let after = cluster.terms()?;
    let groups: u64 = after.iter().zip(&before).map(|(after, before)| after - before).sum();
    let controllers = u64::from(cluster.leading_controller()? != leading);
    eprintln!(
        "  {:.0} messages/s for {seconds:.0} s: {groups} elections of groups, {controllers} of controllers",
        report.messages_per_second
    );
    let servers = report.cpu.servers_us_per_message.unwrap_or(0.0);
    Ok(Row {
        p50_ms: Some(report.latency_ms.p50),
        p99_ms: Some(report.latency_ms.p99),
        cpu_us_per_message: Some(report.cpu.tool_us_per_message + servers),
        errors: report.errors.values().sum(),
        ..Row::new(
            "E1",
            "elections",
            Goal::AtMost(0.0),
            vec![(groups + controllers) as f64],
        )
    })
}
