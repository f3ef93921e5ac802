//! The first start of a controller: who founds the cluster, and who may take part in it.
//!
//! The first controller by name founds the cluster, once every configured controller answered that it is empty and
//! for the same cluster. It draws the cluster's id, writes the *founding* (each controller's replica id and volume)
//! durably, and only then initialises the Raft group; the others learn the founding from any controller that has it.
//!
//! Holds: a volume takes part only if the founding names it, or under a new replica id that the leader gave it. A
//! controller whose disk was wiped might have voted or acknowledged what it forgot, so it never comes back under its
//! old id. While some are silent nobody founds. A crash at any point leaves a volume without a founding, which starts
//! over, or with it, which goes on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flotilla_controller::protocol::{Founder, Founding, Request, Response, Status};
use tracing::{debug, info, warn};

use super::{GROUP_CREATION, GROUP_NAME};
use crate::config::{ControllerSettings, Member};
use crate::controllers::Controllers;
use crate::volume::{Opened, Volume, VolumeError, new_id};

/// Between two rounds of asking.
const ASK_INTERVAL: Duration = Duration::from_millis(200);
/// How long one round waits for answers.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the leader is looked for in one round.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a controller cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// Another controller is configured for another cluster.
    #[error("controller {node} is for cluster {theirs}, this one for {ours}: check `cluster` and `peers`")]
    OtherCluster {
        /// The other controller.
        node: String,
        /// Its cluster.
        theirs: String,
        /// This one's.
        ours: String,
    },
    /// The volume cannot be written, or belongs to another cluster.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// How this controller takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakingPart {
    /// Its Raft id.
    pub replica: u64,
    /// The cluster.
    pub founding: Founding,
    /// It initialises the Raft group.
    pub founds: bool,
}

/// What the answers of one round mean for this controller.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The cluster was founded with this volume.
    TakePart(Founding),
    /// This controller founds the cluster, with these members.
    Found(BTreeMap<String, Founder>),
    /// The cluster exists and does not know this volume: ask the leader for a new replica id.
    Join,
    /// Ask again; names who did not answer, or who has to found.
    Wait(Vec<String>),
    /// This one is for another cluster.
    OtherCluster(String, String),
}

/// Returns once this volume takes part, which is durable then.
pub async fn take_part(
    volume: &mut Volume,
    settings: &ControllerSettings,
    members: &[Member],
    controllers: &Controllers,
) -> Result<TakingPart, FoundingError> {
    let own = own_member(settings, members);
    volume.is_of_cluster(&settings.cluster)?;
    if let Some(known) = remembered(volume, settings, members) {
        if known.founding.cluster != settings.cluster {
            return Err(FoundingError::OtherCluster {
                node: format!("with the folder {}", volume.folder().display()),
                theirs: known.founding.cluster,
                ours: settings.cluster.clone(),
            });
        }
        return Ok(known);
    }
    let mut waited_for = Vec::new();
    loop {
        let answers = ask_all(settings, members, controllers).await;
        match judge(settings, volume.id(), members, &answers) {
            Verdict::TakePart(founding) => {
                volume.set_founding(founding.clone())?;
                info!(members = ?founding.members.keys().collect::<Vec<_>>(), "takes part in the cluster");
                let replica = founding.members.get(&settings.node).map_or(0, |member| member.replica);
                return Ok(TakingPart {
                    replica,
                    founds: settings.node == founder(members),
                    founding,
                });
            }
            Verdict::Found(members) => {
                let founding = Founding {
                    cluster: settings.cluster.clone(),
                    id: new_id(),
                    members,
                };
                volume.set_founding(founding.clone())?;
                info!(cluster = founding.cluster, id = founding.id, "founds the cluster");
                let replica = founding.members.get(&settings.node).map_or(0, |member| member.replica);
                return Ok(TakingPart {
                    replica,
                    founding,
                    founds: true,
                });
            }
            Verdict::Join => {
                let request = Request::Join {
                    name: settings.node.clone(),
                    address: own.address.clone(),
                    volume: volume.id().to_owned(),
                };
                match controllers.at_leader(&request, Instant::now() + JOIN_TIMEOUT).await {
                    Ok(Response::Joined { replica, founding }) => {
                        volume.set_founding(founding.clone())?;
                        info!(
                            replica,
                            cluster = founding.cluster,
                            "joins the cluster under a new replica id"
                        );
                        return Ok(TakingPart {
                            replica,
                            founding,
                            founds: false,
                        });
                    }
                    Ok(other) => warn!(?other, "ask to take part"),
                    Err(error) => info!(%error, "waiting for a leader to take this controller in"),
                }
            }
            Verdict::Wait(missing) => {
                if missing != waited_for {
                    info!(?missing, "waiting for the cluster to be founded");
                    waited_for = missing;
                }
            }
            Verdict::OtherCluster(node, theirs) => {
                let ours = settings.cluster.clone();
                return Err(FoundingError::OtherCluster { node, theirs, ours });
            }
        }
        tokio::time::sleep(ASK_INTERVAL).await;
    }
}

/// What the volume says about how it takes part; a volume that was named but never opened asks again if it is not a
/// founder.
fn remembered(volume: &Volume, settings: &ControllerSettings, members: &[Member]) -> Option<TakingPart> {
    let founding = volume.founding()?.clone();
    let named = founding
        .members
        .get(&settings.node)
        .filter(|member| member.volume == volume.id())
        .map(|member| member.replica);
    let opened = volume
        .opened(GROUP_NAME)
        .filter(|Opened { creation, .. }| *creation == GROUP_CREATION)
        .map(|opened| opened.replica);
    Some(TakingPart {
        replica: opened.or(named)?,
        founds: named.is_some() && settings.node == founder(members),
        founding,
    })
}

/// The controller that founds: the first by name.
fn founder(members: &[Member]) -> String {
    let names = members.iter().map(|member| member.name.clone());
    names.min().unwrap_or_default()
}

fn own_member(settings: &ControllerSettings, members: &[Member]) -> Member {
    let own = members.iter().find(|member| member.name == settings.node);
    own.cloned().unwrap_or_else(|| Member {
        name: settings.node.clone(),
        address: String::new(),
    })
}

/// The answers of all other controllers, `None` from those that gave none.
async fn ask_all(
    settings: &ControllerSettings,
    members: &[Member],
    controllers: &Controllers,
) -> Vec<(String, Option<Status>)> {
    let deadline = Instant::now() + ASK_TIMEOUT;
    let others = members.iter().filter(|member| member.name != settings.node);
    let asked = others.map(|member| async move {
        let answer = match controllers.ask(&member.address, &Request::Status, deadline).await {
            Ok(Response::Status(status)) => Some(status),
            other => {
                debug!(node = member.name, ?other, "no answer before the founding");
                None
            }
        };
        (member.name.clone(), answer)
    });
    futures_util::future::join_all(asked).await
}

fn judge(
    settings: &ControllerSettings,
    volume: &str,
    members: &[Member],
    answers: &[(String, Option<Status>)],
) -> Verdict {
    let said = || {
        answers
            .iter()
            .filter_map(|(name, answer)| Some((name, answer.as_ref()?)))
    };
    if let Some((name, other)) = said().find(|(_, status)| status.cluster != settings.cluster) {
        return Verdict::OtherCluster(name.clone(), other.cluster.clone());
    }
    if let Some(founding) = said().find_map(|(_, status)| status.founding.clone()) {
        return match founding.members.get(&settings.node) {
            Some(member) if member.volume == volume => Verdict::TakePart(founding),
            _ => Verdict::Join,
        };
    }
    let founder = founder(members);
    if settings.node != founder {
        return Verdict::Wait(vec![founder]);
    }
    let missing: Vec<String> = answers
        .iter()
        .filter(|(_, answer)| answer.is_none())
        .map(|(name, _)| name.clone())
        .collect();
    if !missing.is_empty() {
        return Verdict::Wait(missing);
    }
    let volumes: BTreeMap<&str, &str> = said()
        .map(|(name, status)| (name.as_str(), status.volume.as_str()))
        .chain([(settings.node.as_str(), volume)])
        .collect();
    let founders = members.iter().zip(1..).map(|(member, replica)| {
        let founder = Founder {
            replica,
            volume: volumes
                .get(member.name.as_str())
                .copied()
                .unwrap_or_default()
                .to_owned(),
            address: member.address.clone(),
        };
        (member.name.clone(), founder)
    });
    Verdict::Found(founders.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members() -> Vec<Member> {
        let member = |name: &str| Member {
            name: name.to_owned(),
            address: format!("{name}:9878"),
        };
        vec![member("c1"), member("c2"), member("c3")]
    }

    fn settings(node: &str) -> ControllerSettings {
        ControllerSettings {
            node: node.to_owned(),
            ..ControllerSettings::default()
        }
    }

    fn answer(name: &str, founding: Option<Founding>) -> (String, Option<Status>) {
        let status = Status {
            name: name.to_owned(),
            cluster: "flotilla".to_owned(),
            volume: format!("v-{name}"),
            founding,
            ..Status::default()
        };
        (name.to_owned(), Some(status))
    }

    fn founding() -> Founding {
        let members = [("c1", 1), ("c2", 2), ("c3", 3)].map(|(name, replica)| {
            let founder = Founder {
                replica,
                volume: format!("v-{name}"),
                address: format!("{name}:9878"),
            };
            (name.to_owned(), founder)
        });
        Founding {
            cluster: "flotilla".to_owned(),
            id: "0".repeat(32),
            members: members.into(),
        }
    }

    #[test]
    fn the_founder_waits_for_every_controller() {
        let answers = [answer("c2", None), ("c3".to_owned(), None)];
        let verdict = judge(&settings("c1"), "v-c1", &members(), &answers);
        assert_eq!(verdict, Verdict::Wait(vec!["c3".to_owned()]));
        let answers = [answer("c2", None), answer("c3", None)];
        let verdict = judge(&settings("c1"), "v-c1", &members(), &answers);
        assert_eq!(verdict, Verdict::Found(founding().members));
    }

    #[test]
    fn nobody_else_founds() {
        let answers = [answer("c1", None), answer("c3", None)];
        let verdict = judge(&settings("c2"), "v-c2", &members(), &answers);
        assert_eq!(verdict, Verdict::Wait(vec!["c1".to_owned()]));
    }

    #[test]
    fn a_founder_learns_the_founding_from_anyone_and_a_wiped_one_joins() {
        let answers = [("c1".to_owned(), None), answer("c3", Some(founding()))];
        let verdict = judge(&settings("c2"), "v-c2", &members(), &answers);
        assert_eq!(verdict, Verdict::TakePart(founding()));
        let answers = [answer("c2", Some(founding())), ("c3".to_owned(), None)];
        assert_eq!(judge(&settings("c1"), "another", &members(), &answers), Verdict::Join);
    }

    #[test]
    fn another_cluster_is_no_company() {
        let mut stranger = answer("c2", None);
        if let Some(status) = &mut stranger.1 {
            status.cluster = "other".to_owned();
        }
        let verdict = judge(&settings("c1"), "v-c1", &members(), &[stranger]);
        assert_eq!(verdict, Verdict::OtherCluster("c2".to_owned(), "other".to_owned()));
    }
}
