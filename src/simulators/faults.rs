//! What goes wrong, on command or by a seeded chance.

use rand::{Rng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What happens to one HTTP call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Nothing is done; the provider's error envelope with this code. `status` 0 takes the provider's usual one.
    Refuse {
        #[serde(default)]
        status: u16,
        code: u32,
    },
    /// Nothing is done and the connection closes without an answer.
    LoseCall,
    /// It is done, and then the connection closes without an answer.
    LoseAnswer,
    /// Nothing is done; silence for this long (virtual time), then the connection closes.
    Hang { ms: u64 },
    /// It is done; silence for this long (virtual time), then the connection closes.
    HangAfter { ms: u64 },
    /// Nothing is done; 429, with the provider's rate headers or without any.
    Throttle { headers: bool, retry_after_s: u64 },
    /// A 5xx whose body is no JSON; with `acted` it was done all the same.
    ServerError { status: u16, acted: bool },
    /// It is done; the body comes in pieces with this pause (real time) between them.
    SlowBody { ms: u64 },
    /// It is done, and its webhooks go out before the answer does.
    HooksFirst,
}

impl Fault {
    /// Whether the call takes effect in spite of the fault.
    pub fn acts(&self) -> bool {
        use Fault::*;
        matches!(self, LoseAnswer | HangAfter { .. } | ServerError { acted: true, .. } | SlowBody { .. } | HooksFirst)
    }
}

/// A fault that waits for its call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FaultPlan {
    /// An operation's name, or a prefix with `*`: `telnyx.order`, `meta.*`, `*`.
    pub operation: String,
    pub fault: Fault,
    /// Calls to let pass first.
    #[serde(default)]
    pub skip: u32,
    /// Calls to hit; 0 never wears out.
    #[serde(default = "once")]
    pub times: u32,
    /// Only calls about this: a number, a customer reference, a display name, an id, a country.
    #[serde(default)]
    pub only: Option<String>,
}

/// Something in the world outside that goes otherwise than hoped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scene {
    /// Somebody else buys the number a moment before our order (85001).
    NumberTaken,
    /// The order is accepted and then fails.
    OrderFails,
    /// The order waits for documents that nobody has filed.
    RequirementsOpen,
    /// Connection and messaging profile given with the order are forgotten (contracts/telnyx.md 11.2).
    SettingsLost,
    /// The number is already on WhatsApp elsewhere.
    OnWhatsApp,
    /// The portfolio may register no more numbers.
    NumberCap,
    /// The display name is refused by its review.
    NameDeclined,
    /// The code request is accepted and nothing ever comes.
    NobodyCalls,
    /// A call was asked for, an SMS comes.
    TextInstead,
    /// The code that comes is not the one that verifies.
    WrongCode,
    /// The caller hangs up in the middle of the code.
    CallCutShort,
    /// The number is locked for registration for 72 hours (133016).
    RegisterLocked,
    /// The call is recorded but no transcription event is ever sent.
    NoTranscript,
    /// How the next code is spoken.
    Speak { style: crate::speech::Style },
    /// A message fails after it was accepted, with this code (131026, 131047 ...).
    MessageFails { code: u32 },
    /// A template is rejected with this reason.
    TemplateRejected { reason: String },
}

/// A scene that waits for its moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScenePlan {
    pub scene: Scene,
    #[serde(default = "once")]
    pub times: u32,
    #[serde(default)]
    pub only: Option<String>,
}

/// What happens to one webhook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookFault {
    /// It never arrives, however often it is tried.
    Drop,
    /// This try is lost on the way; its sender tries again, as after any that was not answered.
    Lose,
    Duplicate,
    Late {
        ms: u64,
    },
    BadSignature,
    /// Signed ten minutes ago (Telnyx only).
    Stale,
}

/// A webhook fault that waits for its event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HookPlan {
    /// Event name or prefix with `*`: `call.transcription`, `number_order.*`, `messages`, `*`.
    pub event: String,
    pub fault: HookFault,
    #[serde(default = "once")]
    pub times: u32,
    #[serde(default)]
    pub only: Option<String>,
}

/// How kind the world is when nothing is scripted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    Smooth,
    /// Faults by chance, the same chances for the same seed and order of calls.
    Hostile {
        seed: u64,
    },
}

/// Chances per mille under [`Profile::Hostile`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Hostility {
    pub lose_call: u32,
    pub lose_answer: u32,
    pub throttle: u32,
    pub server_error: u32,
    pub hang: u32,
    pub hang_ms: u64,
    pub slow_body: u32,
    pub number_taken: u32,
    pub order_fails: u32,
    pub settings_lost: u32,
    pub nobody_calls: u32,
    pub text_instead: u32,
    pub wrong_code: u32,
    pub call_cut_short: u32,
    /// Messages that fail after their acceptance (131026).
    pub message_fails: u32,
    /// A webhook of Telnyx that never arrives, or one try of Meta's, which tries again for days.
    pub hook_drop: u32,
    pub hook_duplicate: u32,
    pub hook_late: u32,
    pub hook_late_ms: u64,
}

impl Default for Hostility {
    fn default() -> Self {
        Self {
            lose_call: 20,
            lose_answer: 30,
            throttle: 30,
            server_error: 20,
            hang: 2,
            hang_ms: 20_000,
            slow_body: 10,
            number_taken: 30,
            order_fails: 30,
            settings_lost: 50,
            nobody_calls: 50,
            text_instead: 100,
            wrong_code: 30,
            call_cut_short: 50,
            message_fails: 20,
            hook_drop: 20,
            hook_duplicate: 100,
            hook_late: 50,
            hook_late_ms: 2_000,
        }
    }
}

fn once() -> u32 {
    1
}

/// Whether a pattern with an optional final `*` takes the name.
fn takes(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

fn concerns(only: Option<&String>, about: &[String]) -> bool {
    only.is_none_or(|only| about.iter().any(|what| what == only))
}

/// Everything that is planned, and the chances for what is not.
pub(crate) struct Faults {
    calls: Vec<FaultPlan>,
    scenes: Vec<ScenePlan>,
    hooks: Vec<HookPlan>,
    profile: Profile,
    hostility: Hostility,
    dice: StdRng,
}

impl Faults {
    pub(crate) fn new(profile: Profile, hostility: Hostility) -> Self {
        Self { calls: Vec::new(), scenes: Vec::new(), hooks: Vec::new(), profile, hostility, dice: dice(profile) }
    }
    pub(crate) fn be(&mut self, profile: Profile) {
        self.profile = profile;
        self.dice = dice(profile);
    }
    pub(crate) fn plan(&mut self, plan: FaultPlan) {
        self.calls.push(plan);
    }
    pub(crate) fn stage(&mut self, plan: ScenePlan) {
        self.scenes.push(plan);
    }
    pub(crate) fn plan_hook(&mut self, plan: HookPlan) {
        self.hooks.push(plan);
    }
    pub(crate) fn clear(&mut self) {
        self.calls.clear();
        self.scenes.clear();
        self.hooks.clear();
    }
    pub(crate) fn is_hostile(&self) -> bool {
        self.profile != Profile::Smooth
    }
    /// What is planned and has not happened yet.
    pub(crate) fn waiting(&self) -> (Vec<FaultPlan>, Vec<ScenePlan>, Vec<HookPlan>) {
        (self.calls.clone(), self.scenes.clone(), self.hooks.clone())
    }

    pub(crate) fn for_call(&mut self, operation: &str, about: &[String]) -> Option<Fault> {
        for at in 0..self.calls.len() {
            let plan = &mut self.calls[at];
            if !takes(&plan.operation, operation) || !concerns(plan.only.as_ref(), about) {
                continue;
            }
            if plan.skip > 0 {
                plan.skip -= 1;
                continue;
            }
            let fault = plan.fault.clone();
            match plan.times {
                0 => {}
                1 => drop(self.calls.remove(at)),
                _ => plan.times -= 1,
            }
            return Some(fault);
        }
        self.is_hostile().then(|| self.misfortune()).flatten()
    }

    fn misfortune(&mut self) -> Option<Fault> {
        let chance = self.hostility;
        let mut roll = self.dice.random_range(0..1000);
        let (headers, acted) = (self.dice.random(), self.dice.random());
        let ms = chance.hang_ms;
        let faults = [
            (chance.lose_call, Fault::LoseCall),
            (chance.lose_answer, Fault::LoseAnswer),
            (chance.throttle, Fault::Throttle { headers, retry_after_s: 1 }),
            (chance.server_error, Fault::ServerError { status: 502, acted }),
            (chance.hang, if acted { Fault::HangAfter { ms } } else { Fault::Hang { ms } }),
            (chance.slow_body, Fault::SlowBody { ms: 20 }),
        ];
        for (share, fault) in faults {
            if roll < share {
                return Some(fault);
            }
            roll -= share;
        }
        None
    }

    /// The first planned scene that `fits` and concerns `about`, used up.
    pub(crate) fn scene<T>(&mut self, about: &[String], fits: impl Fn(&Scene) -> Option<T>) -> Option<T> {
        let wanted = |plan: &ScenePlan| concerns(plan.only.as_ref(), about).then(|| fits(&plan.scene)).flatten();
        let (at, found) = self.scenes.iter().enumerate().find_map(|(at, plan)| Some((at, wanted(plan)?)))?;
        match self.scenes[at].times {
            0 => {}
            1 => drop(self.scenes.remove(at)),
            _ => self.scenes[at].times -= 1,
        }
        Some(found)
    }

    /// Whether this scene is on: planned, or by chance.
    pub(crate) fn happens(&mut self, about: &[String], scene: &Scene) -> bool {
        if self.scene(about, |planned| (planned == scene).then_some(())).is_some() {
            return true;
        }
        let chance = match scene {
            Scene::NumberTaken => self.hostility.number_taken,
            Scene::OrderFails => self.hostility.order_fails,
            Scene::SettingsLost => self.hostility.settings_lost,
            Scene::NobodyCalls => self.hostility.nobody_calls,
            Scene::TextInstead => self.hostility.text_instead,
            Scene::WrongCode => self.hostility.wrong_code,
            Scene::CallCutShort => self.hostility.call_cut_short,
            Scene::MessageFails { .. } => self.hostility.message_fails,
            _ => 0,
        };
        self.is_hostile() && self.dice.random_range(0..1000) < chance
    }

    /// What befalls a webhook; one that is lost by chance is `lost` as its sender loses them.
    pub(crate) fn for_hook(&mut self, event: &str, about: &[String], lost: HookFault) -> Option<HookFault> {
        let wanted = |plan: &HookPlan| takes(&plan.event, event) && concerns(plan.only.as_ref(), about);
        if let Some(at) = self.hooks.iter().position(wanted) {
            let fault = self.hooks[at].fault.clone();
            match self.hooks[at].times {
                0 => {}
                1 => drop(self.hooks.remove(at)),
                _ => self.hooks[at].times -= 1,
            }
            return Some(fault);
        }
        if !self.is_hostile() {
            return None;
        }
        let chance = self.hostility;
        match self.dice.random_range(0..1000) {
            roll if roll < chance.hook_drop => Some(lost),
            roll if roll < chance.hook_drop + chance.hook_duplicate => Some(HookFault::Duplicate),
            roll if roll < chance.hook_drop + chance.hook_duplicate + chance.hook_late => {
                Some(HookFault::Late { ms: self.dice.random_range(0..=chance.hook_late_ms) })
            }
            _ => None,
        }
    }

    /// Whether the next try of a webhook is lost, too.
    pub(crate) fn loses_hook(&mut self) -> bool {
        self.is_hostile() && self.dice.random_range(0..1000) < self.hostility.hook_drop
    }
}

fn dice(profile: Profile) -> StdRng {
    let seed = match profile {
        Profile::Smooth => 0,
        Profile::Hostile { seed } => seed,
    };
    rand::SeedableRng::seed_from_u64(seed)
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
