//! Exchanges of queues between places, so that the load is more even and the counts stay as they are.
//!
//! Two queues can change places if they are of one topic, or if each topic has one queue more in the place that its
//! queue leaves than in the other: then both stay even. One can go alone if its topic has one more there and so have all
//! topics together. Pins of a topic keep it where they are. A place that carries more than its part exchanges with the
//! least loaded one that it can, until nothing is gained by it any more.
//!
//! Holds: each step makes the two places more even, by a good part of what it moves, and that is a good part of what the
//! queues carry ([`GAIN_SHARE`]). So a queue that carries most of what its place does stays, and one that went does not
//! come back because a rate was measured a little otherwise.

use super::layout::Layout;

/// Exchanges in one plan: what is still uneven then is for the next one.
const EXCHANGES_MAX: usize = 1_024;
/// A place that carries this part more than the average is even enough,
const UNEVEN_PART: u128 = 10;
/// and so are two that differ by less than this part of what the one carries: measurements waver.
const GAP_PART: u128 = 5;
/// The least that a step must take off a place, as [`Rate::load`](super::Rate::load) counts: below it clusters are idle.
pub const GAIN_MIN: u64 = 16 << 10;
/// What a step gains must be this part of the load that it moves, or more; and that load this part of what the heavier
/// of the two queues carries.
const GAIN_SHARE: u128 = 4;
/// Places tried as the one that carries too much, the most loaded first.
const MOST_TRIED: usize = 8;

/// See the module.
pub fn exchange(layout: &mut Layout<'_>) {
    let mut totals = totals(layout);
    for _ in 0..EXCHANGES_MAX {
        let Some(step) = best_step(layout, &totals) else {
            return;
        };
        step.carry_out(layout, &mut totals);
    }
}

/// How many queues of all topics each place has.
fn totals(layout: &Layout<'_>) -> Vec<usize> {
    let mut totals = vec![0; layout.groups.len()];
    for topic in &layout.topics {
        for place in topic.queues.iter().filter_map(|queue| queue.place) {
            totals[place] += 1;
        }
        for (place, count) in &topic.fixed {
            totals[*place] += count;
        }
    }
    totals
}

/// A queue, by its topic and its place in the list.
type Which = (usize, usize);

/// A queue that goes from one place to another, and the one that comes back for it, if one does.
struct Step {
    from: usize,
    to: usize,
    heavy: Which,
    light: Option<Which>,
}

impl Step {
    fn carry_out(&self, layout: &mut Layout<'_>, totals: &mut [usize]) {
        let there = (Some(self.heavy), self.from, self.to);
        let back = (self.light, self.to, self.from);
        for (which, from, to) in [there, back] {
            let Some((topic, queue)) = which else { continue };
            let queue = &mut layout.topics[topic].queues[queue];
            queue.place = Some(to);
            layout.loads[from] -= u128::from(queue.load);
            layout.loads[to] += u128::from(queue.load);
            totals[from] -= 1;
            totals[to] += 1;
        }
    }
}

fn best_step(layout: &Layout<'_>, totals: &[usize]) -> Option<Step> {
    let mut order: Vec<usize> = (0..layout.loads.len())
        .filter(|place| layout.measured[*place])
        .collect();
    order.sort_by_key(|place| layout.loads[*place]);
    let all: u128 = order.iter().map(|place| layout.loads[*place]).sum();
    let average = all.checked_div(order.len() as u128)?;
    let even_enough = average + average / UNEVEN_PART;
    while let Some(most) = order.pop() {
        let tried = layout.measured.iter().filter(|measured| **measured).count() - order.len();
        if layout.loads[most] <= even_enough || tried > MOST_TRIED {
            return None;
        }
        let gap_min = (layout.loads[most] / GAP_PART).max(2 * u128::from(GAIN_MIN));
        let others = order
            .iter()
            .filter(|least| layout.loads[most] - layout.loads[**least] >= gap_min);
        let step = others
            .map(|least| Pairing::new(layout, totals, most, *least))
            .find_map(Pairing::best);
        if step.is_some() {
            return step;
        }
    }
    None
}

/// A queue with its load.
type Loaded = (u64, Which);

/// Two places, and the best step between them found so far.
struct Pairing<'a> {
    layout: &'a Layout<'a>,
    totals: &'a [usize],
    most: usize,
    least: usize,
    gap: u128,
    /// With what it gains for each move, times two.
    best: Option<(u128, Step)>,
}

impl<'a> Pairing<'a> {
    fn new(layout: &'a Layout<'a>, totals: &'a [usize], most: usize, least: usize) -> Self {
        Self {
            layout,
            totals,
            most,
            least,
            gap: layout.loads[most] - layout.loads[least],
            best: None,
        }
    }

    fn best(mut self) -> Option<Step> {
        // Queues of topics that have one more here than there: any of them can be exchanged for any of the other side's.
        let (mut more_here, mut more_there) = (Vec::new(), Vec::new());
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for (number, topic) in self.layout.topics.iter().enumerate() {
            here.clear();
            there.clear();
            let fixed = |place: usize| topic.fixed.get(&place).copied().unwrap_or(0);
            let (mut count_here, mut count_there) = (fixed(self.most), fixed(self.least));
            for (place, queue) in topic.queues.iter().enumerate() {
                if queue.place == Some(self.most) {
                    count_here += 1;
                    // Nothing is gained by one without load.
                    if queue.load > 0 {
                        here.push((queue.load, (number, place)));
                    }
                } else if queue.place == Some(self.least) {
                    count_there += 1;
                    push_light(&mut there, (queue.load, (number, place)));
                }
            }
            if count_here > count_there && topic.allowed[self.least] {
                if self.totals[self.most] > self.totals[self.least] {
                    here.iter().for_each(|heavy| self.consider(*heavy, None));
                }
                more_here.extend(here.iter().copied());
            } else if count_here < count_there && topic.allowed[self.most] {
                there.iter().for_each(|light| push_light(&mut more_there, *light));
            }
            self.consider_all(&here, &mut there);
        }
        self.consider_all(&more_here, &mut more_there);
        self.best.map(|(_, step)| step)
    }

    /// Looks for the best pair of two lists: one whose loads differ by about half the gap.
    fn consider_all(&mut self, here: &[Loaded], there: &mut [Loaded]) {
        if here.is_empty() || there.is_empty() {
            return;
        }
        there.sort_unstable();
        for heavy in here {
            let wished = u128::from(heavy.0).saturating_sub(self.gap / 2);
            let near = there.partition_point(|(load, _)| u128::from(*load) < wished);
            for light in there.iter().skip(near.saturating_sub(1)).take(2) {
                self.consider(*heavy, Some(*light));
            }
        }
    }

    fn consider(&mut self, heavy: Loaded, light: Option<Loaded>) {
        let Some(difference) = heavy.0.checked_sub(light.map_or(0, |(load, _)| load)) else {
            return;
        };
        let difference = u128::from(difference);
        let gain = difference.min(self.gap.saturating_sub(difference));
        let are_alike = difference * GAIN_SHARE < u128::from(heavy.0);
        if gain < u128::from(GAIN_MIN) || gain * GAIN_SHARE < difference || are_alike {
            return;
        }
        // One move for what takes two otherwise.
        let worth = if light.is_some() { gain } else { 2 * gain };
        if self.best.as_ref().is_none_or(|(best, _)| worth > *best) {
            let step = Step {
                from: self.most,
                to: self.least,
                heavy: heavy.1,
                light: light.map(|(_, which)| which),
            };
            self.best = Some((worth, step));
        }
    }
}

/// Adds a queue to those that may come back. Of those without load one is as good as another: the first.
fn push_light(list: &mut Vec<Loaded>, queue: Loaded) {
    let has_idle = list.first().is_some_and(|(load, _)| *load == 0);
    match (queue.0, has_idle) {
        (0, true) => {}
        (0, false) => list.insert(0, queue),
        _ => list.push(queue),
    }
}
