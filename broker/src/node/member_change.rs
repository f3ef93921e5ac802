//! The next step that brings the members of a Raft group in line with the metadata, as its leader takes it. Pure.
//!
//! Whoever is to stay gets a vote in the same step in which others lose theirs, so a group is never larger than asked
//! for and a dead replica never counts beside the one that takes its place. A leader that is to go first gives the
//! others their votes, then hands leadership over; the next one removes it. A replica is struck off the metadata when
//! a committed entry says that it is no member: only then may its node close it.

use flotilla_controller::metadata::RaftGroup;
use flotilla_raft_store::group::GroupStatus;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Exactly these are members, all with a vote: replica ids and nodes.
    SetMembers(Vec<(u64, String)>),
    /// Another one must lead: this replica goes.
    HandOver,
    /// This replica is gone.
    EndReplica(u64),
}

/// What the replica `own`, which leads, does next; `None` if there is nothing to do.
pub fn next(group: &RaftGroup, own: u64, status: &GroupStatus) -> Option<Step> {
    let staying = group.staying().map(|member| (member.id, member.node.clone()));
    let mut wanted: Vec<(u64, String)> = staying.collect();
    let own_stays = wanted.iter().any(|(id, _)| *id == own);
    if !own_stays {
        let here = status.members.iter().find(|member| member.replica == own)?;
        wanted.push((own, here.node.clone()));
    }
    let members = &status.members;
    let in_line = status.members_settled
        && members.len() == wanted.len()
        && members
            .iter()
            .all(|member| member.voter && wanted.iter().any(|(id, _)| *id == member.replica));
    if !in_line {
        return Some(Step::SetMembers(wanted));
    }
    if !own_stays {
        // Alone it is the last one of a Raft group that nobody else takes part in.
        return (wanted.len() > 1).then_some(Step::HandOver);
    }
    let gone = group.members.iter().find(|member| member.leaving);
    gone.map(|member| Step::EndReplica(member.id))
}

#[cfg(test)]
mod tests {
    use flotilla_controller::metadata::Replica;
    use flotilla_raft_store::group::MemberStatus;

    use super::*;

    /// Members as `id` or, leaving, `-id`.
    fn group(members: &[i64]) -> RaftGroup {
        let replica = |id: &i64| Replica {
            id: id.unsigned_abs(),
            node: format!("n{}", id.unsigned_abs()),
            leaving: *id < 0,
        };
        RaftGroup {
            name: "g1".to_owned(),
            creation: 1,
            members: members.iter().map(replica).collect(),
            preferred: "n1".to_owned(),
            founder: 1,
            draining: false,
        }
    }

    fn status(voters: &[u64], learners: &[u64]) -> GroupStatus {
        let member = |replica: &u64, voter| MemberStatus {
            replica: *replica,
            node: format!("n{replica}"),
            voter,
            matched_index: None,
        };
        let voters = voters.iter().map(|id| member(id, true));
        GroupStatus {
            members: voters.chain(learners.iter().map(|id| member(id, false))).collect(),
            members_settled: true,
            ..GroupStatus::default()
        }
    }

    fn set(members: &[u64]) -> Option<Step> {
        let members = members.iter().map(|id| (*id, format!("n{id}")));
        Some(Step::SetMembers(members.collect()))
    }

    #[test]
    fn a_replica_is_replaced_and_struck_off() {
        let wanted = group(&[-1, 2, 3, 4]);
        // Led by one that stays.
        assert_eq!(next(&wanted, 2, &status(&[1, 2, 3], &[])), set(&[2, 3, 4]));
        assert_eq!(next(&wanted, 2, &status(&[1, 2, 3], &[4])), set(&[2, 3, 4]));
        assert_eq!(next(&wanted, 2, &status(&[2, 3, 4], &[])), Some(Step::EndReplica(1)));
        assert_eq!(next(&group(&[2, 3, 4]), 2, &status(&[2, 3, 4], &[])), None);
    }

    #[test]
    fn a_leader_that_goes_hands_over_first() {
        let wanted = group(&[-1, 2, 3, 4]);
        assert_eq!(next(&wanted, 1, &status(&[1, 2, 3], &[])), set(&[2, 3, 4, 1]));
        assert_eq!(next(&wanted, 1, &status(&[1, 2, 3, 4], &[])), Some(Step::HandOver));
        assert_eq!(next(&wanted, 2, &status(&[1, 2, 3, 4], &[])), set(&[2, 3, 4]));
    }

    #[test]
    fn a_lost_disk_is_another_replica() {
        assert_eq!(next(&group(&[7, 2, 3]), 2, &status(&[1, 2, 3], &[])), set(&[7, 2, 3]));
        // Of one that was to go anyway: the old id goes, then the new one, which never took part.
        let wanted = group(&[-7, 2, 3, 4]);
        assert_eq!(next(&wanted, 2, &status(&[1, 2, 3], &[])), set(&[2, 3, 4]));
        assert_eq!(next(&wanted, 2, &status(&[2, 3, 4], &[])), Some(Step::EndReplica(7)));
    }

    #[test]
    fn nothing_is_struck_off_before_it_is_committed() {
        let wanted = group(&[-1, 2, 3, 4]);
        let unsettled = GroupStatus {
            members_settled: false,
            ..status(&[2, 3, 4], &[])
        };
        assert_eq!(next(&wanted, 2, &unsettled), set(&[2, 3, 4]));
    }

    #[test]
    fn a_forgotten_learner_goes() {
        assert_eq!(next(&group(&[1, 2, 3]), 1, &status(&[1, 2, 3], &[4])), set(&[1, 2, 3]));
    }

    #[test]
    fn a_replica_that_nobody_knows_does_nothing() {
        assert_eq!(next(&group(&[1, 2, 3]), 9, &status(&[1, 2, 3], &[])), None);
    }
}
