//! Exchanges of queues between places, so that the load is more even and the counts stay as they are.
//!
//! Two queues can change places if they are of one topic, or if each topic has one queue more in the place that its
//! queue leaves than in the other: then both stay even. Pins of a topic keep it where they are. The most loaded place exchanges with the least loaded one that
//! it can, until nothing is gained by it any more.

use super::layout::Layout;

/// Exchanges in one plan: what is still uneven then is for the next one.
const EXCHANGES_MAX: usize = 1_024;
/// An exchange is two moves: it takes this part of what a place carries on average off the most loaded one, or more.
const GAIN_PART: u128 = 20;

/// See the module.
pub fn exchange(layout: &mut Layout<'_>) {
    let places = layout.loads.len() as u128;
    let gain_min = (layout.loads.iter().sum::<u128>() / places / GAIN_PART).max(1);
    for _ in 0..EXCHANGES_MAX {
        let Some(pair) = best_exchange(layout, gain_min) else {
            return;
        };
        pair.carry_out(layout);
    }
}

/// Two queues that change places, each by topic and place in its list.
struct Pair {
    heavy: (usize, usize),
    light: (usize, usize),
}

impl Pair {
    fn carry_out(&self, layout: &mut Layout<'_>) {
        let queue = |layout: &Layout<'_>, (topic, queue): (usize, usize)| layout.topics[topic].queues[queue];
        let (heavy, light) = (queue(layout, self.heavy), queue(layout, self.light));
        let both = [(self.heavy, heavy, light.place), (self.light, light, heavy.place)];
        for ((topic, place), queue, to) in both {
            layout.topics[topic].queues[place].place = to;
            if let (Some(from), Some(to)) = (queue.place, to) {
                layout.loads[from] -= u128::from(queue.load);
                layout.loads[to] += u128::from(queue.load);
            }
        }
    }
}

fn best_exchange(layout: &Layout<'_>, gain_min: u128) -> Option<Pair> {
    let mut order: Vec<usize> = (0..layout.loads.len()).collect();
    order.sort_by_key(|place| layout.loads[*place]);
    let (most, others) = order.split_last()?;
    others
        .iter()
        .find_map(|least| {
            let gap = layout.loads[*most] - layout.loads[*least];
            // No pair gains more than half of it.
            if gap / 2 < gain_min {
                return None;
            }
            best_pair(layout, *most, *least, gap).filter(|(gain, _)| *gain >= gain_min)
        })
        .map(|(_, pair)| pair)
}

/// The pair that takes the most off the larger load of two places, and how much that is.
fn best_pair(layout: &Layout<'_>, most: usize, least: usize, gap: u128) -> Option<(u128, Pair)> {
    // Queues of topics that have one more here than there: any of them can be exchanged for any of the other side's.
    let (mut more_here, mut more_there) = (Vec::new(), Vec::new());
    let mut best = None;
    for (number, topic) in layout.topics.iter().enumerate() {
        let at = |place: usize| {
            let queues = topic.queues.iter().enumerate();
            let here = queues.filter(move |(_, queue)| queue.place == Some(place));
            here.map(|(queue, found)| (found.load, (number, queue)))
                .collect::<Vec<_>>()
        };
        let (here, there) = (at(most), at(least));
        let counts = topic.counts(layout.loads.len());
        let all = |place: usize| counts.movable[place] + counts.fixed[place];
        match all(most).cmp(&all(least)) {
            std::cmp::Ordering::Greater if topic.allowed[least] => more_here.extend(here.iter().copied()),
            std::cmp::Ordering::Less if topic.allowed[most] => more_there.extend(there.iter().copied()),
            _ => {}
        }
        best_of(&here, there, gap, &mut best);
    }
    best_of(&more_here, more_there, gap, &mut best);
    best
}

type Loaded = (u64, (usize, usize));

/// Looks for a better pair between two lists: one whose loads differ by about half the gap.
fn best_of(here: &[Loaded], mut there: Vec<Loaded>, gap: u128, best: &mut Option<(u128, Pair)>) {
    there.sort_unstable();
    for (load, heavy) in here {
        let wished = u128::from(*load).saturating_sub(gap / 2);
        let near = there.partition_point(|(load, _)| u128::from(*load) < wished);
        for (other, light) in there.iter().skip(near.saturating_sub(1)).take(2) {
            let Some(difference) = load.checked_sub(*other).map(u128::from) else {
                continue;
            };
            let gain = difference.min(gap.saturating_sub(difference));
            if gain > best.as_ref().map_or(0, |(gain, _)| *gain) {
                let pair = Pair {
                    heavy: *heavy,
                    light: *light,
                };
                *best = Some((gain, pair));
            }
        }
    }
}
