//! A copy of the metadata that tells what changed lately: the controller's, fed by its machine, and each node's, fed
//! with the updates that it gets from a controller or another node.
//!
//! A watcher waits on [`Feed::subscribe`], asks [`Feed::since`] with the epoch of its own copy, and gets the changes
//! that follow it as long as the ring holds them, or else the whole metadata.
//!
//! Holds: the ring holds every change after the epoch it reaches back to, in order; the epoch that is announced is
//! that of the metadata a reader then sees, or an older one. Changes set whole records, so changes that a copy has
//! partly seen bring it to the same end.
//! Crash: the ring is lost, and watchers get the whole metadata once.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::metadata::{Change, Metadata, Update};

/// Most changes the ring holds. A topic of many queues counts for several.
pub const CHANGES_MAX: usize = 16_384;
/// This many queues of a changed topic weigh as much as another change.
const QUEUES_PER_WEIGHT: usize = 16;

/// See the module.
#[derive(Debug)]
pub struct Feed {
    inner: RwLock<Inner>,
    epoch: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    metadata: Arc<Metadata>,
    /// Oldest first, each with the epoch it led to.
    ring: VecDeque<(u64, Vec<Change>)>,
    ring_weight: usize,
    /// The ring holds every change after this epoch.
    reaches_back_to: u64,
}

impl Feed {
    /// A feed of this metadata, without changes yet.
    pub fn new(metadata: impl Into<Arc<Metadata>>) -> Self {
        let metadata = metadata.into();
        Self {
            epoch: watch::Sender::new(metadata.epoch),
            inner: RwLock::new(Inner::new(metadata)),
        }
    }

    /// The metadata's epoch.
    pub fn epoch(&self) -> u64 {
        self.inner.read().metadata.epoch
    }

    /// Told of each new epoch; starts with the present one as seen.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    /// Looks at the metadata. It cannot change meanwhile, so `look` must be quick and must not call the feed.
    pub fn read<T>(&self, look: impl FnOnce(&Metadata) -> T) -> T {
        look(&self.inner.read().metadata)
    }

    /// The metadata as it is now. While somebody keeps it the next change copies it: for looks that take long.
    pub fn snapshot(&self) -> Arc<Metadata> {
        self.inner.read().metadata.clone()
    }

    /// Carries out changes that lead to `epoch`. Those of an epoch that is not newer are known already.
    pub fn apply(&self, epoch: u64, changes: Vec<Change>) {
        let mut inner = self.inner.write();
        inner.apply(epoch, changes);
        self.announce(&inner);
    }

    /// Takes other metadata in place of this, whatever its epoch: that of a state just opened or restored.
    pub fn replace(&self, metadata: impl Into<Arc<Metadata>>) {
        let mut inner = self.inner.write();
        *inner = Inner::new(metadata.into());
        self.announce(&inner);
    }

    /// What brings a copy of `epoch` up to date; `None` if it is already, or is newer.
    pub fn since(&self, epoch: u64) -> Option<Update> {
        let inner = self.inner.read();
        if epoch >= inner.metadata.epoch {
            return None;
        }
        Some(match inner.changes_after(epoch) {
            Some(changes) => Update::Changes {
                epoch: inner.metadata.epoch,
                changes: changes.cloned().collect(),
            },
            None => Update::Full(inner.metadata.clone()),
        })
    }

    /// Brings this copy up to date; true if the update was newer. Changes must follow this copy's epoch or an older
    /// one, which they do when they answer what this copy asked for.
    pub fn take(&self, update: Update) -> bool {
        let mut inner = self.inner.write();
        let before = inner.metadata.epoch;
        match update {
            Update::Full(metadata) if metadata.epoch > before => *inner = Inner::new(metadata),
            Update::Full(_) => {}
            Update::Changes { epoch, changes } => inner.apply(epoch, changes),
        }
        self.announce(&inner);
        inner.metadata.epoch > before
    }

    /// Names of the topics that changed after `epoch`, each once; `None` if that is no longer known: any may have.
    pub fn changed_topics_since(&self, epoch: u64) -> Option<Vec<String>> {
        let inner = self.inner.read();
        let changes = inner.changes_after(epoch)?;
        let names: BTreeSet<&String> = changes
            .filter_map(|change| match change {
                Change::Topic(name, _) => Some(name),
                _ => None,
            })
            .collect();
        Some(names.into_iter().cloned().collect())
    }

    /// Under the lock, so that epochs are announced in order.
    fn announce(&self, inner: &Inner) {
        let epoch = inner.metadata.epoch;
        self.epoch
            .send_if_modified(|announced| std::mem::replace(announced, epoch) != epoch);
    }
}

impl Inner {
    fn new(metadata: Arc<Metadata>) -> Self {
        Self {
            reaches_back_to: metadata.epoch,
            metadata,
            ring: VecDeque::new(),
            ring_weight: 0,
        }
    }

    fn apply(&mut self, epoch: u64, changes: Vec<Change>) {
        if epoch <= self.metadata.epoch {
            return;
        }
        Arc::make_mut(&mut self.metadata).apply(epoch, changes.iter().cloned());
        self.ring_weight += weight(&changes);
        self.ring.push_back((epoch, changes));
        while self.ring_weight > CHANGES_MAX
            && let Some((epoch, changes)) = self.ring.pop_front()
        {
            self.ring_weight -= weight(&changes);
            self.reaches_back_to = epoch;
        }
    }

    fn changes_after(&self, epoch: u64) -> Option<impl Iterator<Item = &Change>> {
        if epoch < self.reaches_back_to {
            return None;
        }
        let from = self.ring.partition_point(|(at, _)| *at <= epoch);
        Some(self.ring.range(from..).flat_map(|(_, changes)| changes))
    }
}

/// What changes count for in the ring: about their bytes in memory.
fn weight(changes: &[Change]) -> usize {
    let queues = |change: &Change| match change {
        Change::Topic(_, Some(topic)) => topic.queues.len() / QUEUES_PER_WEIGHT,
        _ => 0,
    };
    changes.iter().map(|change| 1 + queues(change)).sum::<usize>().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Segment, Topic};
    use crate::subscription_group::SubscriptionGroupConfig;
    use crate::topic::TopicConfig;

    fn group(name: &str) -> Change {
        let config = SubscriptionGroupConfig::new(name);
        Change::SubscriptionGroup(name.to_owned(), Some(Arc::new(config)))
    }

    fn topic(name: &str, queues: u32) -> Change {
        let open = Segment {
            generation: 1,
            group: 1,
            start: 0,
            end: None,
        };
        let topic = Topic {
            id: 1,
            epoch: 1,
            created_ms: 0,
            config: TopicConfig::new(name, queues),
            pinned: Vec::new(),
            queues: vec![vec![open]; queues as usize],
        };
        Change::Topic(name.to_owned(), Some(Arc::new(topic)))
    }

    fn metadata(epoch: u64) -> Metadata {
        Metadata {
            epoch,
            ..Metadata::default()
        }
    }

    fn equal(a: &Feed, b: &Feed) -> bool {
        *a.snapshot() == *b.snapshot()
    }

    #[test]
    fn a_copy_follows_by_changes() {
        let source = Feed::new(metadata(5));
        let copy = Feed::new(metadata(5));
        assert_eq!(source.since(5), None);
        source.apply(6, vec![group("a")]);
        source.apply(9, vec![group("b"), topic("t", 2)]);
        assert_eq!(
            source.since(6),
            Some(Update::Changes {
                epoch: 9,
                changes: vec![group("b"), topic("t", 2)]
            })
        );
        assert!(copy.take(source.since(5).unwrap()));
        assert!(equal(&source, &copy));
        assert_eq!(copy.epoch(), 9);
        assert_eq!(source.since(copy.epoch()), None);
        // What was taken is handed on.
        let third = Feed::new(metadata(5));
        assert!(third.take(copy.since(5).unwrap()));
        assert!(equal(&source, &third));
    }

    #[test]
    fn a_copy_from_before_the_ring_gets_all() {
        let source = Feed::new(metadata(5));
        source.apply(6, vec![group("a")]);
        let copy = Feed::new(metadata(4));
        let update = source.since(4).unwrap();
        assert!(matches!(update, Update::Full(_)), "{update:?}");
        assert!(copy.take(update.clone()));
        assert!(equal(&source, &copy));
        assert!(!copy.take(update), "not twice");
        // Its own ring begins there.
        assert!(matches!(copy.since(5), Some(Update::Full(_))));
    }

    #[test]
    fn a_newer_copy_gets_nothing_and_takes_nothing_old() {
        let source = Feed::new(metadata(5));
        assert_eq!(source.since(6), None);
        let copy = Feed::new(metadata(6));
        assert!(!copy.take(Update::Full(source.snapshot())));
        assert!(!copy.take(Update::Changes {
            epoch: 6,
            changes: vec![group("a")]
        }));
        assert_eq!(*copy.snapshot(), metadata(6));
    }

    #[test]
    fn overlapping_changes_lead_to_the_same_end() {
        let source = Feed::new(metadata(0));
        source.apply(1, vec![topic("t", 1)]);
        let copy = Feed::new(metadata(0));
        copy.take(source.since(0).unwrap());
        source.apply(2, vec![Change::Topic("t".to_owned(), None), group("a")]);
        source.apply(3, vec![topic("t", 3)]);
        // Asked for at epoch 0, arrived after epoch 1.
        assert!(copy.take(source.since(0).unwrap()));
        assert!(equal(&source, &copy));
    }

    #[test]
    fn the_ring_is_bounded() {
        let feed = Feed::new(metadata(0));
        for epoch in 1..=CHANGES_MAX as u64 + 10 {
            feed.apply(epoch, vec![group("a")]);
        }
        assert!(matches!(feed.since(9), Some(Update::Full(_))));
        match feed.since(10) {
            Some(Update::Changes { changes, .. }) => assert_eq!(changes.len(), CHANGES_MAX),
            update => panic!("{update:?}"),
        }
        // One that is too large alone leaves an empty ring.
        let epoch = feed.epoch();
        feed.apply(epoch + 1, vec![group("a"); CHANGES_MAX + 1]);
        assert!(matches!(feed.since(epoch), Some(Update::Full(_))));
        assert_eq!(feed.inner.read().ring.len(), 0);
        assert_eq!(feed.inner.read().ring_weight, 0);
        feed.apply(epoch + 2, vec![group("b")]);
        assert!(matches!(feed.since(epoch + 1), Some(Update::Changes { .. })));
    }

    #[test]
    fn topics_of_many_queues_weigh_more() {
        let feed = Feed::new(metadata(0));
        for epoch in 1..=100 {
            feed.apply(epoch, vec![topic("t", 16_384)]);
        }
        let held = feed.inner.read().ring.len();
        assert_eq!(held, CHANGES_MAX / (1 + 16_384 / QUEUES_PER_WEIGHT));
    }

    #[test]
    fn changed_topics_are_named_once() {
        let feed = Feed::new(metadata(5));
        feed.apply(6, vec![topic("b", 1), group("g")]);
        feed.apply(7, vec![topic("a", 1), Change::Topic("b".to_owned(), None)]);
        assert_eq!(feed.changed_topics_since(4), None);
        assert_eq!(feed.changed_topics_since(5).unwrap(), ["a", "b"]);
        feed.apply(8, vec![topic("c", 1)]);
        assert_eq!(feed.changed_topics_since(7).unwrap(), ["c"]);
        assert!(feed.changed_topics_since(8).unwrap().is_empty());
        assert!(feed.changed_topics_since(9).unwrap().is_empty());
    }

    #[test]
    fn watchers_are_told_of_each_epoch() {
        let feed = Feed::new(metadata(5));
        let mut watcher = feed.subscribe();
        assert_eq!(*watcher.borrow_and_update(), 5);
        feed.apply(6, vec![group("a")]);
        assert!(watcher.has_changed().unwrap());
        assert_eq!(*watcher.borrow_and_update(), 6);
        feed.apply(6, vec![group("a")]);
        feed.take(Update::Full(Arc::new(metadata(6))));
        assert!(!watcher.has_changed().unwrap());
        feed.replace(metadata(3));
        assert_eq!(*watcher.borrow_and_update(), 3);
        assert_eq!(feed.read(|metadata| metadata.subscription_groups.len()), 0);
        assert!(matches!(feed.since(2), Some(Update::Full(_))), "the ring was cleared");
    }
}
