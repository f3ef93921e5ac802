//! What tools ask of brokers and name servers as such.

use std::collections::BTreeMap;

use flotilla_api::remoting::bodies::KvTable;
use flotilla_api::remoting::codes::response;
use flotilla_api::remoting::frame::RemotingCommand;

use crate::error::Failure;
use crate::node::Broker;

/// GET_KV_CONFIG and GET_KVLIST_BY_NAMESPACE: there is no key-value configuration.
pub fn no_kv_config(request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let namespace = request.fields.get("namespace").unwrap_or_default();
    let key = request.fields.get("key").unwrap_or_default();
    Err(Failure::answer(
        response::QUERY_NOT_FOUND,
        format!("No config item, Namespace: {namespace} Key: {key}"),
    ))
}

/// DELETE_TOPIC_IN_NAMESRV: routes are made from the topics themselves, so deleting the topic was all.
pub fn nothing_to_do(request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    Ok(RemotingCommand::response(request, response::SUCCESS))
}

/// GET_BROKER_RUNTIME_INFO: the figures `clusterList` and the dashboard cannot do without. Rates are not kept here;
/// `/metrics` has counters.
pub fn runtime_info(broker: &Broker, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let replicas = broker.replicas.all();
    let offsets = |of: fn((u64, u64)) -> u64| -> u64 {
        replicas
            .iter()
            .map(|replica| of(replica.group.status().log_offsets))
            .sum()
    };
    let zeros = [
        "sendThreadPoolQueueSize",
        "pullThreadPoolQueueSize",
        "ackThreadPoolQueueSize",
        "sendThreadPoolQueueHeadWaitTimeMills",
        "pullThreadPoolQueueHeadWaitTimeMills",
        "ackThreadPoolQueueHeadWaitTimeMills",
        "pageCacheLockTimeMills",
        "earliestMessageTimeStamp",
        "timerReadBehind",
        "timerOffsetBehind",
        "timerCongestNum",
        "msgPutTotalYesterdayMorning",
        "msgPutTotalTodayMorning",
        "msgGetTotalYesterdayMorning",
        "msgGetTotalTodayMorning",
    ];
    let mut table: BTreeMap<String, String> = zeros.iter().map(|name| ((*name).to_owned(), "0".to_owned())).collect();
    for name in ["putTps", "getTransferredTps", "getTransferedTps", "getTotalTps"] {
        table.insert(name.to_owned(), "0.0 0.0 0.0".to_owned());
    }
    for name in ["timerEnqueueTps", "timerDequeueTps", "commitLogDiskRatio"] {
        table.insert(name.to_owned(), "0.0".to_owned());
    }
    let texts = [
        ("brokerVersionDesc", "V5_3_3".to_owned()),
        ("brokerVersion", "479".to_owned()),
        ("brokerActive", "true".to_owned()),
        ("msgPutTotalTodayNow", broker.metrics.messages_in.get().to_string()),
        ("msgGetTotalTodayNow", broker.metrics.messages_out.get().to_string()),
        ("commitLogMinOffset", offsets(|(start, _)| start).to_string()),
        ("commitLogMaxOffset", offsets(|(_, end)| end).to_string()),
    ];
    table.extend(texts.map(|(name, value)| (name.to_owned(), value)));
    Ok(RemotingCommand::response(request, response::SUCCESS).with_body(KvTable { table }.to_bytes()))
}
