//! The world behind both listeners: its state, its agenda, and the stage that moves it along.

use chrono::{DateTime, TimeDelta, Utc};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock::Clock,
    config::{Config, HookUrls},
    faults::{Faults, Scene, ms},
    hooks::{self, Hook, Hooks},
    journal::Journal,
    meta::Meta,
    speech::{Language, Utterance},
    telnyx::{self, Telnyx},
};

/// What falls due within this much virtual time is worth waiting for in [`Stage::settle`].
const SOON: TimeDelta = TimeDelta::seconds(5);
/// Webhooks under way at once.
const HOOKS_AT_ONCE: usize = 128;

/// Everything that is true in the simulated world. One lock guards it: a code that Meta speaks is heard at Telnyx.
pub(crate) struct World {
    /// The moment at which the present call or event takes place.
    pub(crate) now: DateTime<Utc>,
    pub(crate) config: Config,
    pub(crate) dice: StdRng,
    pub(crate) faults: Faults,
    pub(crate) journal: Journal,
    pub(crate) hooks: Hooks,
    pub(crate) telnyx: Telnyx,
    pub(crate) meta: Meta,
    agenda: BTreeMap<(DateTime<Utc>, u64), Item>,
    planned: u64,
}

struct Item {
    label: &'static str,
    /// A patience that usually runs out unnoticed: not worth waiting for.
    timer: bool,
    act: Box<dyn FnOnce(&mut World) + Send>,
}

impl World {
    pub(crate) fn new(config: Config, now: DateTime<Utc>) -> Self {
        let mut dice = StdRng::seed_from_u64(config.seed);
        Self {
            now,
            faults: Faults::new(config.profile, config.hostility),
            journal: Journal::default(),
            hooks: Hooks::default(),
            telnyx: Telnyx::new(&config, &mut dice, now),
            meta: Meta::new(&config),
            agenda: BTreeMap::new(),
            planned: 0,
            dice,
            config,
        }
    }

    /// Something that will happen.
    pub(crate) fn after(&mut self, label: &'static str, delay_ms: u64, act: impl FnOnce(&mut World) + Send + 'static) {
        self.schedule(label, delay_ms, false, Box::new(act));
    }

    /// Something that happens if nothing else does before.
    pub(crate) fn timer(&mut self, label: &'static str, delay_ms: u64, act: impl FnOnce(&mut World) + Send + 'static) {
        self.schedule(label, delay_ms, true, Box::new(act));
    }

    fn schedule(&mut self, label: &'static str, delay_ms: u64, timer: bool, act: Box<dyn FnOnce(&mut World) + Send>) {
        self.planned += 1;
        self.agenda.insert((self.now + ms(delay_ms), self.planned), Item { label, timer, act });
    }

    pub(crate) fn agenda(&self) -> Vec<(DateTime<Utc>, &'static str)> {
        self.agenda.iter().map(|((due, _), item)| (*due, item.label)).collect()
    }

    pub(crate) fn uuid(&mut self) -> String {
        let bytes: [u8; 16] = self.dice.random();
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// A number of exactly `length` digits that does not begin with 0.
    pub(crate) fn digits(&mut self, length: u32) -> String {
        let low = 10u64.pow(length - 1);
        self.dice.random_range(low..low * 10).to_string()
    }

    pub(crate) fn happens(&mut self, about: &[String], scene: Scene) -> bool {
        self.faults.happens(about, &scene)
    }

    /// The code that is open for a number, named by its digits (with or without `+`) or Meta's id.
    pub(crate) fn code_of(&self, number: &str) -> Option<String> {
        let number = self.meta.by_digits(number.trim_start_matches('+')).or_else(|| self.meta.numbers.get(number))?;
        number.code.as_ref().map(|code| code.value.clone())
    }

    /// A stranger calls and says one sentence.
    pub(crate) fn call_number(&mut self, to: &str, from: Option<&str>, text: &str) {
        let script = vec![Utterance { text: text.to_owned(), partial: false }];
        telnyx::ring(self, to, from.unwrap_or("+212537000000"), script, Language::English, false);
    }

    /// The names under which plans may mean this number: itself, its digits, its order's reference, its display name.
    pub(crate) fn aliases(&self, digits: &str) -> Vec<String> {
        let mut names = vec![format!("+{digits}"), digits.to_owned()];
        names.extend(self.telnyx.reference_of(&format!("+{digits}")));
        names.extend(self.meta.names_of(digits));
        names
    }
}

/// The world, its clock and the tasks that serve it.
pub(crate) struct Stage {
    world: Mutex<World>,
    pub(crate) clock: Clock,
    pub(crate) closing: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) http: reqwest::Client,
    pub(crate) hook_slots: Semaphore,
    /// Bumped whenever anything may have changed.
    pulse: watch::Sender<u64>,
}

impl Stage {
    pub(crate) fn new(world: World, clock: Clock, http: reqwest::Client) -> Arc<Self> {
        Arc::new(Self {
            world: Mutex::new(world),
            clock,
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            http,
            hook_slots: Semaphore::new(HOOKS_AT_ONCE),
            pulse: watch::Sender::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks without touching.
    pub(crate) fn look<T>(&self, see: impl FnOnce(&World) -> T) -> T {
        see(&self.lock())
    }

    /// Acts now: webhooks that it caused start out, and the agenda's keeper wakes.
    pub(crate) fn act<T>(self: &Arc<Self>, change: impl FnOnce(&mut World) -> T) -> T {
        let (done, outgoing) = {
            let mut world = self.lock();
            world.now = self.clock.now();
            let done = change(&mut world);
            (done, world.hooks.take_outgoing())
        };
        self.send(outgoing);
        self.pulse.send_modify(|beat| *beat += 1);
        done
    }

    fn send(self: &Arc<Self>, outgoing: Vec<Hook>) {
        for hook in outgoing {
            self.tasks.spawn(hooks::deliver(Arc::clone(self), hook));
        }
    }

    /// Runs what is due, in order, each at its own time; answers when the next item is due.
    fn work_off(self: &Arc<Self>) -> Option<DateTime<Utc>> {
        let mut worked = false;
        let next = loop {
            let mut world = self.lock();
            let Some((&next, _)) = world.agenda.first_key_value() else { break None };
            if next.0 > self.clock.now() {
                break Some(next.0);
            }
            if let Some(item) = world.agenda.remove(&next) {
                world.now = next.0;
                (item.act)(&mut world);
            }
            let outgoing = world.hooks.take_outgoing();
            drop(world);
            self.send(outgoing);
            worked = true;
        };
        // Only now can `settle` see that it is done.
        if worked {
            self.pulse.send_modify(|beat| *beat += 1);
        }
        next
    }

    /// Moves the clock; what that made due happens before this returns, webhooks start out.
    pub(crate) fn advance(self: &Arc<Self>, by: Duration) {
        self.clock.advance(by);
        self.work_off();
    }

    /// New targets for webhooks; empty ones leave the old.
    pub(crate) fn aim(self: &Arc<Self>, urls: HookUrls) {
        self.act(|world| {
            let known = &mut world.config.hooks;
            for (known, new) in [
                (&mut known.telnyx_voice, urls.telnyx_voice),
                (&mut known.telnyx_messages, urls.telnyx_messages),
                (&mut known.telnyx_orders, urls.telnyx_orders),
                (&mut known.meta, urls.meta),
            ] {
                if !new.is_empty() {
                    *known = new;
                }
            }
            world.telnyx.aim(&world.config);
        });
    }

    /// Waits in virtual time.
    pub(crate) async fn wait(&self, length: Duration) {
        tokio::select! {
            () = self.clock.reach(self.clock.now() + length) => {}
            () = self.closing.cancelled() => {}
        }
    }

    /// Keeps the agenda until the simulators stop.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut pulse = self.pulse.subscribe();
        loop {
            pulse.borrow_and_update();
            let next = self.work_off();
            let due = async {
                match next {
                    Some(at) => self.clock.reach(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                _ = pulse.changed() => {}
                () = self.closing.cancelled() => return,
            }
        }
    }

    /// Returns once nothing falls due soon and no webhook is under way. Timers and long reviews are not waited for.
    pub(crate) async fn settle(&self) {
        let mut pulse = self.pulse.subscribe();
        loop {
            pulse.borrow_and_update();
            let busy = {
                let world = self.lock();
                let soon = self.clock.now() + SOON;
                world.hooks.under_way() > 0 || world.agenda.range(..(soon, 0)).any(|(_, item)| !item.timer)
            };
            if !busy {
                return;
            }
            tokio::select! {
                _ = pulse.changed() => {}
                () = self.closing.cancelled() => return,
            }
        }
    }
}

/// Telnyx's way of writing a moment.
pub(crate) fn iso(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

/// A name-based id that is the same in every run.
pub(crate) fn fixed_uuid(name: &str) -> String {
    let mut bytes = [0u8; 16];
    for (at, byte) in name.bytes().enumerate() {
        bytes[at % 16] = bytes[at % 16].rotate_left(3) ^ byte;
    }
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}
