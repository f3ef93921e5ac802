//! What a controller answers on its port.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_controller::feed::Feed;
use flotilla_controller::protocol::{Founding, Request, Response, Status};
use flotilla_controller::state::{Command, Reply};
use flotilla_raft_store::error::{ProposeError, ReadError};
use flotilla_raft_store::group::GroupStatus;
use flotilla_raft_store::identity::GroupIdentity;
use flotilla_raft_store::transport::Purpose;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::timeout;

use super::{ControllerGroup, identity};
use crate::config::{ControllerSettings, Member};
use crate::fail_point;
use crate::peer::{CallKind, Channel, Hello, PeerHandler, PeerReceiver, PeerSender, Refusal};
use crate::volume::Volume;

/// How long a majority may take to confirm the leader before a command is taken: less than the asker waits.
const CONFIRM_MAX: Duration = Duration::from_secs(1);
/// Longest wait for a change that may be asked for.
const WATCH_WAIT_MAX: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Server {
    name: String,
    cluster: String,
    volume: String,
    members: Vec<Member>,
    feed: Arc<Feed>,
    founding: OnceLock<Founding>,
    /// The replica and its Raft id.
    group: OnceLock<(u64, ControllerGroup)>,
}

impl Server {
    /// A controller that does not take part yet.
    pub fn new(settings: &ControllerSettings, volume: &Volume, members: Vec<Member>, feed: Arc<Feed>) -> Self {
        let founding = OnceLock::new();
        if let Some(known) = volume.founding() {
            founding.get_or_init(|| known.clone());
        }
        Self {
            name: settings.node.clone(),
            cluster: settings.cluster.clone(),
            volume: volume.id().to_owned(),
            members,
            feed,
            founding,
            group: OnceLock::new(),
        }
    }

    /// The cluster is founded, with or without this controller.
    pub fn set_founding(&self, founding: Founding) {
        self.founding.get_or_init(|| founding);
    }

    /// The replica is open.
    pub fn set_group(&self, replica: u64, group: ControllerGroup) {
        self.group.get_or_init(|| (replica, group));
    }

    fn group(&self) -> Option<&ControllerGroup> {
        self.group.get().map(|(_, group)| group)
    }

    async fn answer(&self, request: Request) -> Response {
        match request {
            Request::Status => Response::Status(self.status()),
            Request::Watch {
                epoch,
                cluster,
                wait_ms,
                at_leader,
            } => {
                if at_leader && !self.leads() {
                    return self.not_leader(None);
                }
                let wait = Duration::from_millis(wait_ms).min(WATCH_WAIT_MAX);
                self.changes_since(epoch, &cluster, wait).await
            }
            Request::Propose(command) => self.propose(&command).await,
            Request::Epoch => self.newest_epoch().await,
            Request::Join { name, address, volume } => self.join(name, address, volume).await,
        }
    }

    fn status(&self) -> Status {
        let raft = self.group().map(ControllerGroup::status);
        Status {
            name: self.name.clone(),
            cluster: self.cluster.clone(),
            volume: self.volume.clone(),
            founding: self.founding.get().cloned(),
            leader: raft.as_ref().and_then(|raft| raft.leader.clone()),
            term: raft.as_ref().map_or(0, |raft| raft.term),
            epoch: self.feed.epoch(),
            takes_part: raft.is_some(),
            voters: raft.map(voters).unwrap_or_default(),
        }
    }

    fn leads(&self) -> bool {
        self.group().is_some_and(ControllerGroup::is_leader)
    }

    fn not_leader(&self, leader: Option<String>) -> Response {
        let known = || self.group()?.leadership().leader.as_deref().map(str::to_owned);
        let leader = leader.or_else(known).filter(|leader| *leader != self.name);
        let recorded = |name: &str| {
            self.feed
                .read(|metadata| Some(metadata.controllers.get(name)?.address.clone()))
        };
        let configured = |name: &str| {
            let member = self.members.iter().find(|member| member.name == name)?;
            Some(member.address.clone())
        };
        let leader = leader.and_then(|name| configured(&name).or_else(|| recorded(&name)));
        Response::NotLeader { leader }
    }

    async fn changes_since(&self, epoch: u64, cluster: &str, wait: Duration) -> Response {
        let mut epochs = self.feed.subscribe();
        let id = self.feed.read(|metadata| metadata.cluster.id.clone());
        if id.is_empty() {
            return Response::Unavailable("the cluster is not founded yet".to_owned());
        }
        if !cluster.is_empty() && id != cluster {
            return Response::Unavailable(format!("this is cluster {id}, not {cluster}"));
        }
        if let Some(update) = self.feed.since(epoch) {
            return Response::Update(Some(update));
        }
        // Nothing in time is an answer, too.
        let _ = timeout(wait, epochs.wait_for(|now| *now > epoch)).await;
        Response::Update(self.feed.since(epoch))
    }

    async fn propose(&self, command: &Command) -> Response {
        let Some(group) = self.group() else {
            return self.not_leader(None);
        };
        // A leader cut off from the others would take the command into its log, and nobody could say what becomes of it.
        match timeout(CONFIRM_MAX, group.read_index()).await {
            Ok(Ok(())) => {}
            Ok(Err(ReadError::NotLeader { leader })) => return self.not_leader(leader),
            Ok(Err(ReadError::Unavailable(reason))) => return Response::Unavailable(reason),
            Err(_) => return Response::Unavailable("no majority of the controllers answers".to_owned()),
        }
        if let Command::EndMove { .. } = command {
            fail_point::reached(fail_point::END_ASKED);
        }
        let proposed = group.propose(vec![command.encode()]).await;
        match command {
            Command::StartMoves { .. } => fail_point::reached(fail_point::START_LOGGED),
            Command::EndMove { .. } => fail_point::reached(fail_point::END_LOGGED),
            Command::EndReplica { .. } => fail_point::reached(fail_point::REPLICA_ENDED),
            _ => {}
        }
        match proposed {
            Ok(proposed) => match proposed.replies.into_iter().next() {
                Some(reply) => Response::Reply(reply),
                None => Response::Unknown("no reply".to_owned()),
            },
            Err(ProposeError::NotLeader { leader }) => self.not_leader(leader),
            Err(error @ (ProposeError::Busy(_) | ProposeError::TooLarge)) => Response::Unavailable(error.to_string()),
            Err(ProposeError::Unknown(reason)) => Response::Unknown(reason),
        }
    }

    async fn newest_epoch(&self) -> Response {
        let Some(group) = self.group() else {
            return self.not_leader(None);
        };
        match group.read_index().await {
            Ok(()) => Response::Epoch(self.feed.epoch()),
            Err(ReadError::NotLeader { leader }) => self.not_leader(leader),
            Err(ReadError::Unavailable(reason)) => Response::Unavailable(reason),
        }
    }

    /// Gives a controller with an empty disk a replica id that was never used; the leader's duties add it.
    async fn join(&self, name: String, address: String, volume: String) -> Response {
        let Some(founding) = self.founding.get() else {
            return Response::Unavailable("the cluster is not founded yet".to_owned());
        };
        match self.propose(&Command::PutController { name, address, volume }).await {
            Response::Reply(Reply::Controller { replica, .. }) => Response::Joined {
                replica,
                founding: founding.clone(),
            },
            Response::Reply(other) => Response::Unavailable(format!("{other:?}")),
            other => other,
        }
    }
}

fn voters(raft: GroupStatus) -> BTreeMap<u64, String> {
    let voters = raft.members.into_iter().filter(|member| member.voter);
    voters.map(|member| (member.replica, member.node)).collect()
}

impl PeerHandler for Server {
    fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        if !hello.to.is_empty() && hello.to != self.name {
            return Err(Refusal::Address);
        }
        let ours = self.founding.get().and_then(Founding::id_bytes);
        match hello.channel {
            // Who has not joined a cluster yet names none.
            Channel::Calls if hello.identity.cluster == [0; 16] => Ok(()),
            Channel::Calls => match ours {
                Some(ours) if ours == hello.identity.cluster => Ok(()),
                Some(_) => Err(Refusal::Cluster),
                None => Err(Refusal::NotReady),
            },
            Channel::Raft(_) => {
                let ours = ours.ok_or(Refusal::NotReady)?;
                if hello.identity.cluster != ours {
                    return Err(Refusal::Cluster);
                }
                if hello.identity != identity(ours) {
                    return Err(Refusal::Group);
                }
                let known = self.members.iter().any(|member| member.name == hello.from)
                    || self
                        .feed
                        .read(|metadata| metadata.controllers.contains_key(&hello.from));
                if !known {
                    return Err(Refusal::Stranger);
                }
                let (replica, _) = self.group.get().ok_or(Refusal::NotReady)?;
                if *replica != hello.replica {
                    return Err(Refusal::Replica);
                }
                Ok(())
            }
        }
    }

    fn raft(
        &self,
        _identity: GroupIdentity,
        purpose: Purpose,
        sender: PeerSender,
        receiver: PeerReceiver,
    ) -> BoxFuture<'static, io::Result<()>> {
        match self.group().cloned() {
            Some(group) => async move { group.serve(purpose, sender, receiver).await }.boxed(),
            None => std::future::ready(Ok(())).boxed(),
        }
    }

    fn call(self: Arc<Self>, kind: CallKind, request: Bytes, _: Instant) -> BoxFuture<'static, Result<Bytes, String>> {
        if kind != CallKind::Controller {
            return std::future::ready(Err("this is a controller's port".to_owned())).boxed();
        }
        async move {
            let request: Request = serde_json::from_slice(&request).map_err(|error| error.to_string())?;
            let answer = self.answer(request).await;
            let answer = serde_json::to_vec(&answer).map_err(|error| error.to_string())?;
            Ok(answer.into())
        }
        .boxed()
    }
}
