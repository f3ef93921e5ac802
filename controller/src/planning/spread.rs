//! How many queues of each topic belong in each place, so that topics and the whole are even and few queues move.
//!
//! A topic's queues fill all places that its pins allow to one level, and some of the places one above it: its *extras*. Only where the
//! extras go is open. An extra where the topic has a queue above the level anyway saves a move, so what is searched is
//! the flow of extras, from topics through places, that saves the most with totals of places that differ by at most
//! one. It is found by successive shortest paths: topics first choose for themselves, then extras are passed on from
//! places with too many to places with too few, by the cheapest chains of topics.
//!
//! Holds: no cheaper chain remains, so the moves are the fewest possible. Queues that are on their way are fixed; where
//! they alone make a place uneven, it stays so.

/// Where the queues of one topic are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// By place, those that can move.
    pub movable: Vec<usize>,
    /// By place, those that cannot.
    pub fixed: Vec<usize>,
    /// Those without a place, which need one.
    pub homeless: usize,
    /// By place, whether those that can move may be there. If they may be nowhere, none can move.
    pub allowed: Vec<bool>,
}

/// By topic and place, how many queues it should have there. There is at least one place.
pub fn spread(topics: &[Counts], places: usize) -> Vec<Vec<usize>> {
    let mut extras = Extras::new(places);
    let mut wanted: Vec<Vec<usize>> = Vec::with_capacity(topics.len());
    for counts in topics {
        let (base, level, count) = base(counts);
        let cells = (0..places).map(|place| Cell {
            may: counts.allowed[place] && base[place] == level,
            saves: counts.movable[place] + counts.fixed[place] > base[place],
            has: false,
        });
        extras.add(cells.collect(), count, &base);
        wanted.push(base);
    }
    extras.even_out();
    for (wanted, cells) in wanted.iter_mut().zip(&extras.topics) {
        for (wanted, cell) in wanted.iter_mut().zip(cells) {
            *wanted += usize::from(cell.has);
        }
    }
    wanted
}

/// What a topic has in each place at least, the level that its queues fill all places to, and how many extras there
/// are beside.
fn base(counts: &Counts) -> (Vec<usize>, usize, usize) {
    let all = counts.homeless + counts.movable.iter().sum::<usize>() + counts.fixed.iter().sum::<usize>();
    let filled = |level: usize| {
        let places = counts.fixed.iter().zip(&counts.allowed);
        places.map(move |(fixed, allowed)| if *allowed { (*fixed).max(level) } else { *fixed })
    };
    // The highest level that the queues reach; at 0 there are the fixed ones alone.
    let (mut reached, mut beyond) = (0, all + 1);
    while beyond - reached > 1 {
        let middle = reached.midpoint(beyond);
        if filled(middle).sum::<usize>() <= all {
            reached = middle;
        } else {
            beyond = middle;
        }
    }
    let base: Vec<usize> = filled(reached).collect();
    let extras = all - base.iter().sum::<usize>();
    (base, reached, extras)
}

/// A topic at a place.
#[derive(Clone, Copy, Debug)]
struct Cell {
    /// An extra may go here.
    may: bool,
    /// One here saves a move.
    saves: bool,
    /// One is here.
    has: bool,
}

/// The flow of extras.
struct Extras {
    places: usize,
    topics: Vec<Vec<Cell>>,
    totals: Vec<usize>,
    /// By place, other place and cost + 1: topics that once could pass an extra on from one to the other. Whether they
    /// still can is looked up.
    chains: Vec<[Vec<usize>; 3]>,
}

/// A topic that can pass an extra on, and how many moves that costs: -1, 0 or 1.
type Link = (i32, usize);

impl Extras {
    fn new(places: usize) -> Self {
        Self {
            places,
            topics: Vec::new(),
            totals: vec![0; places],
            chains: vec![Default::default(); places * places],
        }
    }

    /// One more topic with `count` extras, which go where they save moves, then where the fewest queues are.
    fn add(&mut self, mut cells: Vec<Cell>, count: usize, base: &[usize]) {
        for (total, base) in self.totals.iter_mut().zip(base) {
            *total += base;
        }
        let mut order: Vec<usize> = (0..self.places).filter(|place| cells[*place].may).collect();
        order.sort_by_key(|place| (!cells[*place].saves, self.totals[*place], *place));
        for place in order.into_iter().take(count) {
            cells[place].has = true;
            self.totals[place] += 1;
        }
        let topic = self.topics.len();
        self.topics.push(cells);
        for place in 0..self.places {
            if self.topics[topic][place].has {
                self.link_from(topic, place);
            }
        }
    }

    /// Notes that a topic can pass the extra at `from` on to where it has none.
    fn link_from(&mut self, topic: usize, from: usize) {
        for to in 0..self.places {
            self.link(topic, from, to);
        }
    }

    fn link(&mut self, topic: usize, from: usize, to: usize) {
        let cells = &self.topics[topic];
        if cells[from].has && cells[to].may && !cells[to].has {
            let cost = 1 + usize::from(cells[from].saves) - usize::from(cells[to].saves);
            self.chains[from * self.places + to][cost].push(topic);
        }
    }

    /// The cheapest topic that can pass an extra on from one place to another.
    fn cheapest(&mut self, from: usize, to: usize) -> Option<Link> {
        for (topics, cost) in self.chains[from * self.places + to].iter_mut().zip(-1..) {
            while let Some(topic) = topics.last() {
                let cells = &self.topics[*topic];
                if cells[from].has && !cells[to].has {
                    return Some((cost, *topic));
                }
                topics.pop();
            }
        }
        None
    }

    fn pass_on(&mut self, topic: usize, from: usize, to: usize) {
        let cells = &mut self.topics[topic];
        cells[from].has = false;
        cells[to].has = true;
        self.totals[from] -= 1;
        self.totals[to] += 1;
        self.link_from(topic, to);
        for other in 0..self.places {
            self.link(topic, other, from);
        }
    }

    /// Passes extras on until no place has more than one above another, as far as chains of topics allow.
    fn even_out(&mut self) {
        let all: usize = self.totals.iter().sum();
        let (least, most) = (all / self.places, all.div_ceil(self.places));
        while self.pass_along(|total| total > most, |total| total < most) {}
        while self.pass_along(|total| total > least, |total| total < least) {}
    }

    /// Takes the cheapest chain from a place that has too many to one that has room; false if there is none.
    fn pass_along(&mut self, too_many: impl Fn(usize) -> bool, room: impl Fn(usize) -> bool) -> bool {
        if !self.totals.iter().any(|total| too_many(*total)) || !self.totals.iter().any(|total| room(*total)) {
            return false;
        }
        // Costs can be negative, cycles of chains cannot: Bellman and Ford's way, place by place.
        let mut cost: Vec<Option<i32>> = self.totals.iter().map(|total| too_many(*total).then_some(0)).collect();
        let mut before: Vec<Option<(usize, usize)>> = vec![None; self.places];
        for _ in 1..self.places {
            let mut changed = false;
            for from in 0..self.places {
                let Some(cost_from) = cost[from] else { continue };
                for to in 0..self.places {
                    let Some((step, topic)) = self.cheapest(from, to) else {
                        continue;
                    };
                    if cost[to].is_none_or(|known| cost_from + step < known) {
                        cost[to] = Some(cost_from + step);
                        before[to] = Some((from, topic));
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        let targets = (0..self.places).filter(|place| room(self.totals[*place]));
        let reached = targets.filter_map(|place| Some((cost[place]?, place)));
        let Some((_, mut to)) = reached.min() else { return false };
        while let Some((from, topic)) = before[to] {
            self.pass_on(topic, from, to);
            to = from;
        }
        true
    }
}
