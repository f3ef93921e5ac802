//! The first start of a replica: who founds the Raft group, and who may take part in it.
//!
//! The first member of the configured list founds the group, once every member answered and has a volume that never
//! took part in anything. It writes the *founding* (each member's replica id and volume id) durably, and only then
//! initialises the group; the others learn the founding from any node that has it.
//!
//! Holds: a volume takes part only if the founding names it. A replica whose disk was wiped has a new volume id under
//! an old replica id: it might have voted or acknowledged what it forgot, so it is turned away. A crash at any point
//! leaves a volume without a founding, which starts over, or with it, which goes on.

use std::time::{Duration, Instant};

use tracing::{debug, info};

use crate::config::Settings;
use crate::peer::{NodeInfo, Peers};
use crate::volume::{Founding, FoundingMember, Volume, VolumeError};

/// Between two rounds of asking.
const ASK_INTERVAL: Duration = Duration::from_millis(200);
/// How long one round waits for answers.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a node cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// The group knows this replica id with another volume.
    #[error(
        "the group was founded with replica {replica} of node {node} on another volume (this one is empty): \
         a replica that lost its disk must not come back under its old id, because it could vote against what it \
         acknowledged. Restore the volume, or rejoin under a new replica id (`replica` in the configuration)"
    )]
    DiskLost {
        /// The node.
        node: String,
        /// Its replica id.
        replica: u64,
    },
    /// The group exists without this replica.
    #[error(
        "the group exists and has no replica {replica} of node {node}: adding a replica to a running group needs the \
         controller, which this version does not have"
    )]
    NotAMember {
        /// The node.
        node: String,
        /// The replica id it wants.
        replica: u64,
    },
    /// The volume cannot be written.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// What the answers of one round mean for this node.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The group was founded, with this volume.
    TakePart(Founding),
    /// This node founds the group.
    Found(Founding),
    /// Ask again; names who did not answer, or who has to found.
    Wait(Vec<String>),
    /// The group knows this replica with another volume.
    DiskLost,
    /// The group does not know this replica.
    NotAMember,
}

/// Returns the founding once the group is founded with this volume, durably written into it.
pub async fn take_part(volume: &mut Volume, settings: &Settings, peers: &Peers) -> Result<Founding, FoundingError> {
    if let Some(founding) = volume.founding() {
        return Ok(founding.clone());
    }
    let own = FoundingMember {
        replica: settings.replica_id(),
        volume: volume.id().to_owned(),
    };
    let mut waited_for = Vec::new();
    loop {
        let answers = ask_all(peers).await;
        match judge(&settings.node, &own, &settings.founder(), &answers) {
            Verdict::TakePart(founding) => {
                volume.set_founding(founding.clone())?;
                info!(members = ?founding.keys().collect::<Vec<_>>(), "takes part in the raft group");
                return Ok(founding);
            }
            Verdict::Found(founding) => {
                volume.set_founding(founding.clone())?;
                info!(members = ?founding.keys().collect::<Vec<_>>(), "founds the raft group");
                return Ok(founding);
            }
            Verdict::Wait(missing) => {
                if missing != waited_for {
                    info!(
                        ?missing,
                        founder = settings.founder(),
                        "waiting for the raft group to be founded"
                    );
                    waited_for = missing;
                }
            }
            Verdict::DiskLost => {
                return Err(FoundingError::DiskLost {
                    node: settings.node.clone(),
                    replica: own.replica,
                });
            }
            Verdict::NotAMember => {
                return Err(FoundingError::NotAMember {
                    node: settings.node.clone(),
                    replica: own.replica,
                });
            }
        }
        tokio::time::sleep(ASK_INTERVAL).await;
    }
}

/// The answers of all other members, `None` from those that gave none.
async fn ask_all(peers: &Peers) -> Vec<(String, Option<NodeInfo>)> {
    let deadline = Instant::now() + ASK_TIMEOUT;
    let others = peers.nodes().into_iter().filter(|node| !node.here);
    let asked = others.map(|node| async move {
        let answer = peers.ask_info(&node.name, deadline).await;
        if let Err(error) = &answer {
            debug!(node = node.name, %error, "no answer before the founding");
        }
        (node.name, answer.ok())
    });
    futures_util::future::join_all(asked).await
}

fn judge(node: &str, own: &FoundingMember, founder: &str, answers: &[(String, Option<NodeInfo>)]) -> Verdict {
    let founded = answers.iter().find_map(|(_, answer)| answer.as_ref()?.founding.clone());
    if let Some(founding) = founded {
        return match founding.get(node) {
            Some(member) if member == own => Verdict::TakePart(founding),
            Some(member) if member.replica == own.replica => Verdict::DiskLost,
            _ => Verdict::NotAMember,
        };
    }
    if node != founder {
        return Verdict::Wait(vec![founder.to_owned()]);
    }
    let mut founding = Founding::from([(node.to_owned(), own.clone())]);
    let mut missing = Vec::new();
    for (name, answer) in answers {
        match answer {
            Some(info) => {
                let member = FoundingMember {
                    replica: info.replica,
                    volume: info.volume.clone(),
                };
                founding.insert(name.clone(), member);
            }
            None => missing.push(name.clone()),
        }
    }
    if missing.is_empty() {
        Verdict::Found(founding)
    } else {
        Verdict::Wait(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(replica: u64, volume: &str) -> FoundingMember {
        FoundingMember {
            replica,
            volume: volume.to_owned(),
        }
    }

    fn answer(node: &str, replica: u64, founding: Option<Founding>) -> (String, Option<NodeInfo>) {
        let volume = format!("v{replica}");
        (
            node.to_owned(),
            Some(NodeInfo {
                node: node.to_owned(),
                replica,
                volume,
                founding,
                ..NodeInfo::default()
            }),
        )
    }

    fn founding() -> Founding {
        (1..=3)
            .map(|replica| (format!("n{replica}"), member(replica, &format!("v{replica}"))))
            .collect()
    }

    #[test]
    fn the_founder_waits_for_every_member() {
        let own = member(1, "v1");
        let answers = [answer("n2", 2, None), ("n3".to_owned(), None)];
        assert_eq!(judge("n1", &own, "n1", &answers), Verdict::Wait(vec!["n3".to_owned()]));
        let answers = [answer("n2", 2, None), answer("n3", 3, None)];
        assert_eq!(judge("n1", &own, "n1", &answers), Verdict::Found(founding()));
    }

    #[test]
    fn nobody_else_founds() {
        let answers = [answer("n1", 1, None), answer("n3", 3, None)];
        assert_eq!(
            judge("n2", &member(2, "v2"), "n1", &answers),
            Verdict::Wait(vec!["n1".to_owned()])
        );
    }

    #[test]
    fn a_member_learns_the_founding_from_anyone() {
        let answers = [("n1".to_owned(), None), answer("n3", 3, Some(founding()))];
        assert_eq!(
            judge("n2", &member(2, "v2"), "n1", &answers),
            Verdict::TakePart(founding())
        );
    }

    #[test]
    fn a_wiped_disk_is_turned_away_even_on_the_founder() {
        let answers = [answer("n2", 2, Some(founding())), ("n3".to_owned(), None)];
        assert_eq!(judge("n1", &member(1, "other"), "n1", &answers), Verdict::DiskLost);
        assert_eq!(judge("n1", &member(9, "other"), "n1", &answers), Verdict::NotAMember);
    }
}
