//! GET_CONSUMER_LIST_BY_GROUP, at the leader: every node answers alike, or clients would share out queues differently.

use std::sync::Arc;

use flotilla_api::remoting::bodies::ConsumerList;
use flotilla_api::remoting::codes::response;
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::consumer::ConsumerGroupHeader;

use crate::coordinators;
use crate::error::Failure;
use crate::forward::{self, Repeat};
use crate::node::{Broker, Owned};
use crate::replica::Replica;
use crate::router::Origin;

/// Has the coordinator of the consumer group asked.
pub async fn route(
    broker: &Arc<Broker>,
    request: &RemotingCommand,
    origin: &Origin,
) -> Result<RemotingCommand, Failure> {
    let group = ConsumerGroupHeader::decode(&request.fields)?.consumer_group;
    forward::at_owner(broker, Owned::Members(group), request, origin, Repeat::Harmless).await
}

/// The client ids of a consumer group; code 1 if there is none, which clients take as "not now".
pub async fn list(replica: &Replica, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let group = ConsumerGroupHeader::decode(&request.fields)?.consumer_group;
    replica.group.read_index().await?;
    let client_ids: Vec<_> = coordinators::at_leader(replica, group, |known| {
        let members = known.into_iter().flat_map(|known| known.members.keys());
        members.cloned().collect()
    })?;
    if client_ids.is_empty() {
        return Err(Failure::answer(
            response::SYSTEM_ERROR,
            format!("no consumer for this group, {group}"),
        ));
    }
    Ok(RemotingCommand::response(request, response::SUCCESS).with_body(ConsumerList { client_ids }.to_bytes()))
}
