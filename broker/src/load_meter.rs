//! How much comes into the queues of a Raft group led here: messages and bytes a second, on average over the last minutes.
//!
//! Fed by apply on the leader, once an entry; not part of the replicated state. What came long ago counts less: all sums
//! are kept in the weight of a common moment, and what comes later is added with a weight that grows, so that nothing has
//! to be touched as time passes. Queues at rest cost nothing and are forgotten. Not measured is what consumers read: any
//! node with a replica serves that, so it is no load of the group's leader.
//!
//! Holds: a replica that does not lead measures nothing; a leader begins anew, and so does a queue that moved. A crash
//! loses the averages, which are of use again after some seconds.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_controller::planning::Rate;
use parking_lot::Mutex;

use crate::state::effects::IndexBatch;

/// What came so long ago weighs e times less than what comes now.
const MEMORY: Duration = Duration::from_secs(120);
/// How long a replica must have led before it can tell.
const MEASURED_MIN: Duration = Duration::from_secs(5);
/// What came in a shorter time is taken for what came in this.
const STRETCH_MIN: Duration = Duration::from_secs(1);
/// A queue of which so few messages count by now is forgotten: one message, nine minutes ago.
const MESSAGES_MIN: f64 = 0.01;
/// Weights beyond this are brought back to 1, by a look at all queues: every three hours.
const WEIGHT_MAX: f64 = 1e40;
/// Queues measured one by one. Of more than these the sum is known.
const QUEUES_MAX: usize = 100_000;
/// So many are not looked through for queues that came to rest.
const QUEUES_FEW: usize = 1_024;
/// Between two such looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

type QueueName = (Arc<str>, u32);

/// See the module.
#[derive(Debug, Default)]
pub struct LoadMeter {
    /// Of the leader.
    measured: Mutex<Option<Measured>>,
}

/// What a leader measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupRates {
    /// For how long it has led.
    pub measured_for: Duration,
    /// By topic and queue.
    pub queues: Vec<(Arc<str>, u32, Rate)>,
    /// What is not known by queue.
    pub others: Rate,
}

impl GroupRates {
    /// All that comes in.
    pub fn all(&self) -> Rate {
        let mut all = self.others;
        self.queues.iter().for_each(|(_, _, rate)| all += *rate);
        all
    }

    /// Whether it is long enough to tell by it.
    pub fn is_settled(&self) -> bool {
        self.measured_for >= MEASURED_MIN
    }
}

impl LoadMeter {
    /// This replica leads from now on.
    pub fn begin(&self, now: Instant) {
        *self.measured.lock() = Some(Measured::new(now));
    }

    /// It does not lead any more.
    pub fn end(&self) {
        *self.measured.lock() = None;
    }

    /// These were stored.
    pub fn stored(&self, batches: &[IndexBatch], now: Instant) {
        if let Some(measured) = &mut *self.measured.lock() {
            measured.stored(batches, now);
        }
    }

    /// A queue's open segment is not here any more, or here now.
    pub fn handed_over(&self, topic: &str, queue: u32, now: Instant) {
        if let Some(measured) = &mut *self.measured.lock() {
            measured.handed_over(topic, queue, now);
        }
    }

    /// What the leader measured; `None` if this is not the leader.
    pub fn rates(&self, now: Instant) -> Option<GroupRates> {
        self.measured.lock().as_ref().map(|measured| measured.rates(now))
    }

    /// What comes into the queues of a topic, by number; those at rest are missing. `None` if this is not the leader.
    pub fn rates_of(&self, topic: &str, now: Instant) -> Option<BTreeMap<u32, Rate>> {
        let measured = self.measured.lock();
        Some(measured.as_ref()?.rates_of(topic, now))
    }
}

#[derive(Debug)]
struct Measured {
    since: Instant,
    /// When the weight was 1.
    origin: Instant,
    queues: HashMap<QueueName, Sums>,
    others: Sums,
    /// With so many queues those at rest are looked for,
    look_at: usize,
    /// but not before this.
    look_after: Instant,
}

/// Everything that came, in the weights of when it came.
#[derive(Clone, Copy, Debug)]
struct Sums {
    since: Instant,
    messages: f64,
    bytes: f64,
}

impl Sums {
    fn new(since: Instant) -> Self {
        Self {
            since,
            messages: 0.0,
            bytes: 0.0,
        }
    }

    fn add(&mut self, batch: &IndexBatch, weight: f64) {
        self.messages += batch.messages.len() as f64 * weight;
        self.bytes += batch.bytes as f64 * weight;
    }

    fn rate(&self, weight: f64, now: Instant) -> Rate {
        let elapsed = now.saturating_duration_since(self.since).max(STRETCH_MIN);
        // The sum of the weights of all seconds since then.
        let seconds = MEMORY.as_secs_f64() * (1.0 - (-elapsed.div_duration_f64(MEMORY)).exp());
        Rate {
            messages: self.messages / weight / seconds,
            bytes: self.bytes / weight / seconds,
        }
    }

    fn scale(&mut self, by: f64) {
        self.messages *= by;
        self.bytes *= by;
    }
}

impl Measured {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            origin: now,
            queues: HashMap::new(),
            others: Sums::new(now),
            look_at: QUEUES_FEW,
            look_after: now,
        }
    }

    /// What a message that comes now weighs.
    fn weight(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.origin);
        elapsed.div_duration_f64(MEMORY).exp()
    }

    fn stored(&mut self, batches: &[IndexBatch], now: Instant) {
        let mut weight = self.weight(now);
        if weight > WEIGHT_MAX {
            self.queues.values_mut().for_each(|sums| sums.scale(1.0 / weight));
            self.others.scale(1.0 / weight);
            self.origin = now;
            weight = 1.0;
        }
        for batch in batches {
            let name = (batch.topic.clone(), batch.queue.queue());
            if let Some(sums) = self.queues.get_mut(&name) {
                sums.add(batch, weight);
            } else if self.has_room(now) {
                let mut sums = Sums::new(self.since);
                sums.add(batch, weight);
                self.queues.insert(name, sums);
            } else {
                self.others.add(batch, weight);
            }
        }
    }

    /// Whether one more queue can be measured. Forgets those at rest now and then.
    fn has_room(&mut self, now: Instant) -> bool {
        if self.queues.len() >= self.look_at && now >= self.look_after {
            let weight = self.weight(now);
            self.queues.retain(|_, sums| sums.messages / weight >= MESSAGES_MIN);
            self.look_at = (2 * self.queues.len()).clamp(QUEUES_FEW, QUEUES_MAX);
            self.look_after = now + LOOK_INTERVAL;
        }
        self.queues.len() < QUEUES_MAX
    }

    fn handed_over(&mut self, topic: &str, queue: u32, now: Instant) {
        let name = (Arc::from(topic), queue);
        self.queues.remove(&name);
        if self.has_room(now) {
            self.queues.insert(name, Sums::new(now));
        }
    }

    fn rates(&self, now: Instant) -> GroupRates {
        let weight = self.weight(now);
        let queues = self.queues.iter();
        let queues = queues.filter(|(_, sums)| sums.messages / weight >= MESSAGES_MIN);
        let queues = queues.map(|((topic, queue), sums)| (topic.clone(), *queue, sums.rate(weight, now)));
        GroupRates {
            measured_for: now.saturating_duration_since(self.since),
            queues: queues.collect(),
            others: self.others.rate(weight, now),
        }
    }

    fn rates_of(&self, topic: &str, now: Instant) -> BTreeMap<u32, Rate> {
        let weight = self.weight(now);
        let queues = self.queues.iter().filter(|((name, _), _)| &**name == topic);
        queues
            .map(|((_, queue), sums)| (*queue, sums.rate(weight, now)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::records::QueueId;

    fn batch(topic: &str, queue: u32, messages: usize) -> IndexBatch {
        IndexBatch {
            topic: Arc::from(topic),
            queue: QueueId::new(1, queue),
            first_offset: 0,
            store_time: 0,
            messages: vec![(0, 0); messages],
            bytes: 100 * messages as u64,
        }
    }

    fn seconds(begun: Instant, seconds: u64) -> Instant {
        begun + Duration::from_secs(seconds)
    }

    /// So many messages in every second of a stretch.
    fn feed(meter: &LoadMeter, begun: Instant, stretch: std::ops::Range<u64>, batch: &IndexBatch) {
        for second in stretch {
            meter.stored(std::slice::from_ref(batch), seconds(begun, second));
        }
    }

    fn messages(meter: &LoadMeter, now: Instant) -> f64 {
        meter.rates(now).unwrap().all().messages
    }

    #[test]
    fn a_steady_rate_is_known_after_seconds_and_stays_over_days() {
        let begun = Instant::now();
        for (upto, within) in [(10, 0.1), (60, 0.02), (3_600, 0.01), (86_400, 0.01)] {
            let meter = LoadMeter::default();
            meter.begin(begun);
            feed(&meter, begun, 0..upto, &batch("t", 3, 50));
            let rates = meter.rates(seconds(begun, upto)).unwrap();
            let [(topic, queue, rate)] = &rates.queues[..] else {
                panic!("{rates:?}")
            };
            assert_eq!((&**topic, *queue), ("t", 3));
            assert!((rate.messages / 50.0 - 1.0).abs() < within, "after {upto} s: {rate:?}");
            assert!((rate.bytes / 5_000.0 - 1.0).abs() < within, "after {upto} s: {rate:?}");
        }
    }

    #[test]
    fn what_came_first_is_not_taken_for_a_rate_and_what_ended_fades() {
        let (meter, begun) = (LoadMeter::default(), Instant::now());
        meter.begin(begun);
        meter.stored(&[batch("t", 0, 100)], begun);
        assert!(messages(&meter, begun) <= 100.0 / 0.99, "a hundred in no time");
        assert!(!meter.rates(seconds(begun, 4)).unwrap().is_settled());
        feed(&meter, begun, 1..600, &batch("t", 0, 100));
        let last = messages(&meter, seconds(begun, 600));
        let later = messages(&meter, seconds(begun, 720));
        assert!((later / last - (-1_f64).exp()).abs() < 0.01, "{last} then {later}");
        assert_eq!(meter.rates(seconds(begun, 6_000)).unwrap().queues, []);
    }

    #[test]
    fn only_a_leader_measures_and_begins_anew_each_time() {
        let (meter, begun) = (LoadMeter::default(), Instant::now());
        meter.stored(&[batch("t", 0, 5)], begun);
        assert_eq!(meter.rates(begun), None);
        assert_eq!(meter.rates_of("t", begun), None);
        meter.begin(begun);
        feed(&meter, begun, 0..100, &batch("t", 0, 5));
        meter.end();
        assert_eq!(meter.rates(seconds(begun, 100)), None);
        meter.begin(seconds(begun, 100));
        assert_eq!(messages(&meter, seconds(begun, 100)), 0.0);
    }

    #[test]
    fn a_queue_that_moves_is_measured_from_then_on() {
        let (from, to, begun) = (LoadMeter::default(), LoadMeter::default(), Instant::now());
        for meter in [&from, &to] {
            meter.begin(begun);
        }
        feed(&from, begun, 0..600, &batch("t", 0, 10));
        feed(&from, begun, 0..600, &batch("t", 1, 10));
        for meter in [&from, &to] {
            meter.handed_over("t", 0, seconds(begun, 600));
        }
        assert!((messages(&from, seconds(begun, 600)) - 10.0).abs() < 0.2);
        feed(&to, begun, 600..620, &batch("t", 0, 10));
        assert!((messages(&to, seconds(begun, 620)) - 10.0).abs() < 1.0);
        let of_topic = to.rates_of("t", seconds(begun, 620)).unwrap();
        assert_eq!(of_topic.keys().copied().collect::<Vec<_>>(), [0]);
        assert_eq!(to.rates_of("u", begun).unwrap(), BTreeMap::new());
    }

    #[test]
    fn queues_at_rest_are_forgotten_and_no_more_are_kept_than_is_said() {
        let (meter, begun) = (LoadMeter::default(), Instant::now());
        meter.begin(begun);
        for queue in 0..QUEUES_MAX as u32 + 10 {
            meter.stored(&[batch("t", queue, 1)], begun);
        }
        let rates = meter.rates(begun).unwrap();
        assert_eq!(rates.queues.len(), QUEUES_MAX);
        assert!(rates.others.messages > 0.0);
        let later = seconds(begun, 3_600);
        meter.stored(&[batch("u", 0, 1)], later);
        let measured = meter.measured.lock();
        assert_eq!(measured.as_ref().unwrap().queues.len(), 1);
    }
}
