//! Lanes against a model of what sends meet: Raft groups that are sealed, open late, lose their leader, are busy, answer in
//! any order; and clients that go away. All of it from one seed a run.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::*;

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn leads(node: &str, term: u64) -> Leadership {
    Leadership {
        term,
        leader: Some(Arc::from(node)),
        is_leader: false,
    }
}

/// Asks to go, by the way to one group; true if it may.
fn asks(ticket: &mut Ticket<'_>, group: u16) -> bool {
    let waker = Waker::noop();
    let seen = leads("n1", 1);
    let turn = ticket.poll_go(&Context::from_waker(waker), Some((group, &seen)));
    matches!(turn, Poll::Ready(Ok(())))
}

#[test]
fn sends_that_go_the_same_way_do_not_wait() {
    let lanes = Lanes::default();
    let mut tickets: Vec<_> = (0..100).map(|_| lanes.ticket("T", 1)).collect();
    assert!(tickets.iter_mut().all(|ticket| asks(ticket, 1)));
    let mut elsewhere = lanes.ticket("T", 1);
    assert!(!asks(&mut elsewhere, 2));
    let mut other_queue = lanes.ticket("T", 2);
    assert!(asks(&mut other_queue, 2));
    drop(tickets);
    assert!(asks(&mut elsewhere, 2));
    drop((elsewhere, other_queue));
    assert!(lanes.table.lock().lanes.is_empty());
}

#[test]
fn after_a_refusal_the_first_goes_alone_and_the_others_follow_once_it_is_stored() {
    let lanes = Lanes::default();
    let mut tickets: Vec<_> = (0..4).map(|_| lanes.ticket("T", 1)).collect();
    tickets[..3].iter_mut().for_each(|ticket| assert!(asks(ticket, 1)));
    // The second hears of the refusal first: it waits for the first.
    tickets[1].again(true);
    assert!(!asks(&mut tickets[1], 2));
    assert!(!asks(&mut tickets[3], 2), "one that is new waits, too");
    tickets[0].again(true);
    assert!(!asks(&mut tickets[0], 2), "the third is still under way");
    tickets[2].again(true);
    assert!(asks(&mut tickets[0], 2));
    assert!(tickets[0].is_alone());
    assert!(!asks(&mut tickets[1], 2));
    tickets.remove(0).stored();
    for ticket in &mut tickets {
        assert!(asks(ticket, 2));
        assert!(!ticket.is_alone());
    }
}

#[test]
fn one_that_a_later_one_overtook_does_not_go_again() {
    let lanes = Lanes::default();
    let (mut first, mut second) = (lanes.ticket("T", 1), lanes.ticket("T", 1));
    assert!(asks(&mut first, 1) && asks(&mut second, 1));
    second.stored();
    first.again(true);
    let waker = Waker::noop();
    let turn = first.poll_go(&Context::from_waker(waker), None);
    assert_eq!(turn, Poll::Ready(Err(Barred::Overtaken)));

    // One of unknown outcome goes: it will be recognised if it is stored.
    let (mut first, mut second) = (lanes.ticket("U", 1), lanes.ticket("U", 1));
    assert!(asks(&mut first, 1) && asks(&mut second, 1));
    second.stored();
    first.again(false);
    assert!(asks(&mut first, 1));
}

#[test]
fn who_is_not_handed_on_holds_those_behind_it() {
    let lanes = Lanes::default();
    let (mut first, mut second) = (lanes.ticket("T", 1), lanes.ticket("T", 1));
    assert!(asks(&mut first, 1));
    first.hold();
    assert!(!asks(&mut second, 1));
    first.handed_on();
    assert!(asks(&mut second, 1));
    first.hold();
    let mut third = lanes.ticket("T", 1);
    assert!(!asks(&mut third, 1));
    drop(first);
    assert!(asks(&mut third, 1));
}

#[test]
fn no_more_than_so_many_wait() {
    let lanes = Lanes::default();
    let mut first = lanes.ticket("T", 1);
    assert!(asks(&mut first, 1));
    let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| lanes.ticket("T", 1)).collect();
    assert!(waiting.iter_mut().all(|ticket| !asks(ticket, 2)));
    let mut last = lanes.ticket("T", 1);
    let turn = last.poll_go(&Context::from_waker(Waker::noop()), None);
    assert_eq!(turn, Poll::Ready(Err(Barred::Full)));
}

/// A send's way through the model.
enum Step {
    /// It has not begun, or it was woken.
    Asks,
    Waits,
    UnderWay,
    /// What it will be told: whether it is stored.
    Answered(bool),
    Ended,
}

struct Send<'a> {
    ticket: Option<Ticket<'a>>,
    step: Step,
    woken: Arc<Flag>,
}

/// One queue: the group that takes its messages, or will once it is open, and what arrives there.
struct Model {
    owner: u16,
    open: bool,
    term: u64,
    /// Only heard of.
    hearsay: bool,
    /// By the way they took, in order.
    inbox: VecDeque<(u16, u64, usize)>,
    stored: Vec<usize>,
}

impl Model {
    fn arrive(&mut self, random: &mut StdRng, sends: &mut [Send<'_>]) {
        let Some((group, term, number)) = self.inbox.pop_front() else {
            return;
        };
        if !matches!(sends[number].step, Step::UnderWay) {
            // Its client went away; it may be stored all the same.
            if group == self.owner && self.open && term == self.term {
                self.stored.push(number);
            }
            return;
        }
        let busy = random.random_ratio(1, 50);
        let takes = group == self.owner && self.open && term == self.term && !busy;
        if takes {
            self.stored.push(number);
        }
        sends[number].step = Step::Answered(takes);
    }
}

/// Runs `count` sends; returns how many were stored and how many were told that they are not.
fn run(seed: u64, count: usize) -> (usize, usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let lanes = Lanes::default();
    let mut model = Model {
        owner: 1,
        open: true,
        term: 1,
        hearsay: false,
        inbox: VecDeque::new(),
        stored: Vec::new(),
    };
    let mut sends: Vec<Send<'_>> = Vec::new();
    let (mut refused, mut steps, mut gone) = (0, 0, Vec::new());
    loop {
        steps += 1;
        assert!(steps < 200_000, "seed {seed}: nobody gets on");
        // After a while the world is calm, and all must end.
        let calm = steps > 4_000;
        match random.random_range(0..100) {
            0 if !calm => {
                model.owner += 1;
                (model.open, model.hearsay) = (false, true);
            }
            1 if !calm => model.term += 1,
            2..6 => model.open = true,
            6..12 if sends.len() < count => sends.push(Send {
                ticket: Some(lanes.ticket("T", 0)),
                step: Step::Asks,
                woken: Arc::default(),
            }),
            12..60 => model.arrive(&mut random, &mut sends),
            60 if !calm => {
                if let Some(number) = (0..sends.len()).choose(&mut random)
                    && !matches!(sends[number].step, Step::Asks | Step::Ended)
                {
                    sends[number].ticket = None;
                    sends[number].step = Step::Ended;
                    gone.push(number);
                }
            }
            _ => {}
        }
        // New ones ask in the order they came; woken ones and answers come as they like.
        let ready = |send: &Send<'_>| match send.step {
            Step::Asks | Step::Answered(_) => true,
            Step::Waits => send.woken.0.load(Ordering::Relaxed),
            _ => false,
        };
        let first_new = sends.iter().position(|send| matches!(send.step, Step::Asks));
        let eligible = (0..sends.len()).filter(|number| {
            ready(&sends[*number]) && (first_new == Some(*number) || !matches!(sends[*number].step, Step::Asks))
        });
        if let Some(number) = eligible.choose(&mut random) {
            let send = &mut sends[number];
            let mut ticket = send.ticket.take().expect("it has not ended");
            if let Step::Answered(stored) = send.step {
                if stored {
                    model.hearsay = false;
                    ticket.stored();
                    send.step = Step::Ended;
                    continue;
                }
                ticket.again(true);
            }
            send.woken.0.store(false, Ordering::Relaxed);
            let seen = leads("n", model.term);
            let way = (!model.hearsay).then_some((model.owner, &seen));
            let waker = Waker::from(send.woken.clone());
            send.step = match ticket.poll_go(&Context::from_waker(&waker), way) {
                Poll::Pending => Step::Waits,
                Poll::Ready(Ok(())) => {
                    model.inbox.push_back((model.owner, model.term, number));
                    Step::UnderWay
                }
                Poll::Ready(Err(barred)) => {
                    assert_eq!(barred, Barred::Overtaken);
                    refused += 1;
                    Step::Ended
                }
            };
            if !matches!(send.step, Step::Ended) {
                send.ticket = Some(ticket);
            }
        }
        if sends.len() == count && sends.iter().all(|send| matches!(send.step, Step::Ended)) {
            break;
        }
    }
    let stored = model.stored.iter().filter(|number| !gone.contains(number));
    let stored: Vec<usize> = stored.copied().collect();
    assert!(stored.is_sorted_by(|a, b| a < b), "seed {seed}: {stored:?}");
    assert_eq!(stored.len() + refused + gone.len(), count, "seed {seed}");
    assert!(lanes.table.lock().lanes.is_empty());
    (stored.len(), refused)
}

#[test]
fn whatever_happens_what_is_stored_is_in_order_and_everyone_ends() {
    let (mut stored, mut refused) = (0, 0);
    for seed in 0..500 {
        let run = run(seed, 200);
        stored += run.0;
        refused += run.1;
    }
    assert!(
        stored > 50 * refused && refused > 0,
        "{stored} stored, {refused} refused"
    );
}
