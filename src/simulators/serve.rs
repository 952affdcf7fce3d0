//! One call from the first byte to the last, with whatever goes wrong on the way.

use axum::{
    body::Body,
    extract::{ConnectInfo, State},
    http::Request,
    response::Response,
};
use serde_json::json;
use std::{future::pending, sync::Arc, time::Duration};

use crate::{
    faults::{Fault, ms},
    meta, telnyx,
    wire::{Answer, Call, Operation, Refusal, Scissors, segments},
    world::{Stage, World},
};

/// Largest body taken: Meta's largest media and its multipart frame.
const BODY_MAX: usize = 101 * 1024 * 1024;
/// How long an answer waits for its webhooks to arrive first (real time).
const HOOKS_FIRST_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    Telnyx,
    Meta,
}

#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) stage: Arc<Stage>,
    pub(crate) provider: Provider,
}

pub(crate) async fn serve(
    State(Desk { stage, provider }): State<Desk>,
    ConnectInfo(scissors): ConnectInfo<Scissors>,
    request: Request<Body>,
) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_MAX).await else {
        return Answer::json(413, &json!({"error": "body too large"})).into_response(None);
    };
    let mut path = segments(head.uri.path());
    if !path.is_empty() && (provider == Provider::Meta && is_version(&path[0]) || provider == Provider::Telnyx && path[0] == "v2")
    {
        path.remove(0);
    }
    let mut call = Call::new(&head.uri, head.headers, body);
    let found = stage.look(|world| {
        let mut all = operations_of(provider);
        all.find_map(|operation| {
            let args = operation.matches(&head.method, &path)?;
            (provider == Provider::Telnyx || meta::fits(world, operation, &args)).then_some((operation, args))
        })
    });
    let Some((operation, args)) = found else {
        let refusal = match provider {
            Provider::Telnyx => Refusal::new(404, 10005, "No such path."),
            Provider::Meta => Refusal::new(400, 2500, "Unknown path components."),
        };
        return stage.act(|world| provider.refuse(world, &refusal)).into_response(None);
    };
    call.operation = operation.name;
    call.args = args;

    let (seq, fault) = stage.act(|world| {
        let about = provider.about(world, &call);
        let fault = world.faults.for_call(operation.name, &about);
        (world.journal.open(world.now, operation.name, about), fault)
    });
    let cut = async |acted: bool, outcome: &str| {
        stage.act(|world| world.journal.close(seq, None, acted, outcome.to_owned()));
        scissors.cut();
        pending::<Response>().await
    };
    let instead = match &fault {
        Some(Fault::LoseCall) => return cut(false, "lose_call").await,
        Some(Fault::Hang { ms: wait }) => {
            stage.wait(ms(*wait)).await;
            return cut(false, "hang").await;
        }
        Some(Fault::Refuse { status, code }) => {
            let status = if *status == 0 { provider.usual_status(*code) } else { *status };
            let refusal = Refusal::new(status, *code, "Refused on command.");
            Some((stage.act(|world| provider.refuse(world, &refusal)), format!("refuse {code}")))
        }
        Some(Fault::Throttle { headers, retry_after_s }) => {
            Some((stage.act(|world| provider.throttle(world, *headers, *retry_after_s)), "throttle".into()))
        }
        Some(Fault::ServerError { status, acted: false }) => Some((broken(*status), format!("server_error {status}"))),
        _ => None,
    };
    if let Some((answer, outcome)) = instead {
        stage.act(|world| world.journal.close(seq, Some(answer.status), false, outcome));
        return answer.into_response(None);
    }

    let (answer, refused) = stage.act(|world| {
        let (answer, refused) = perform(world, provider, operation, &call);
        if refused.is_none() {
            world.journal.acted(seq);
        }
        (answer, refused)
    });
    let acted = refused.is_none();
    let outcome = refused.map_or_else(|| "ok".to_owned(), |code| format!("refused {code}"));
    let mut drip = None;
    match &fault {
        Some(Fault::LoseAnswer) => return cut(acted, &format!("lose_answer, {outcome}")).await,
        Some(Fault::HangAfter { ms: wait }) => {
            stage.wait(ms(*wait)).await;
            return cut(acted, &format!("hang_after, {outcome}")).await;
        }
        Some(Fault::ServerError { status, .. }) => {
            stage.act(|world| world.journal.close(seq, Some(*status), acted, format!("server_error {status}, {outcome}")));
            return broken(*status).into_response(None);
        }
        Some(Fault::HooksFirst) => drop(tokio::time::timeout(HOOKS_FIRST_MAX, stage.settle()).await),
        Some(Fault::SlowBody { ms: pause }) => drip = Some(ms(*pause)),
        _ => {}
    }
    stage.act(|world| world.journal.close(seq, Some(answer.status), acted, outcome));
    answer.into_response(drip)
}

/// The act itself; says the code if it was refused.
fn perform(world: &mut World, provider: Provider, operation: &Operation, call: &Call) -> (Answer, Option<u32>) {
    let garbled = match provider {
        Provider::Telnyx => Refusal::new(400, 10015, "The body is no JSON object."),
        Provider::Meta => Refusal::new(400, 100, "The body is no JSON object."),
    };
    let checked = provider.authorise(world, call).and(if call.garbled { Err(garbled) } else { Ok(()) });
    match checked.and_then(|()| (operation.act)(world, call)) {
        Ok(answer) => (provider.dress(world, answer), None),
        Err(refusal) => (provider.refuse(world, &refusal), Some(refusal.code)),
    }
}

impl Provider {
    fn authorise(self, world: &World, call: &Call) -> Result<(), Refusal> {
        match self {
            Self::Telnyx => telnyx::authorise(world, call),
            Self::Meta => meta::authorise(world, call),
        }
    }
    fn about(self, world: &World, call: &Call) -> Vec<String> {
        match self {
            Self::Telnyx => telnyx::about(world, call),
            Self::Meta => meta::about(world, call),
        }
    }
    fn refuse(self, world: &mut World, refusal: &Refusal) -> Answer {
        match self {
            Self::Telnyx => telnyx::refuse(refusal),
            Self::Meta => meta::refuse(world, refusal),
        }
    }
    fn usual_status(self, code: u32) -> u16 {
        match self {
            Self::Telnyx => telnyx::usual_status(code),
            Self::Meta => meta::usual_status(code),
        }
    }
    /// The headers of a good answer.
    fn dress(self, world: &World, answer: Answer) -> Answer {
        match self {
            Self::Telnyx => {
                answer.header("x-ratelimit-limit", 1_000).header("x-ratelimit-remaining", 999).header("x-ratelimit-reset", 1)
            }
            Self::Meta => answer.header("x-app-usage", r#"{"call_count":1,"total_cputime":1,"total_time":1}"#).header(
                "x-business-use-case-usage",
                json!({&world.config.meta.waba_id: [{"type": "whatsapp_business_management", "call_count": 1, "total_cputime": 1,
                    "total_time": 1, "estimated_time_to_regain_access": 0}]}),
            ),
        }
    }
    fn throttle(self, world: &mut World, headers: bool, retry_after_s: u64) -> Answer {
        let refusal = match self {
            Self::Telnyx => Refusal::new(429, 10011, "Slow down."),
            Self::Meta => Refusal::new(429, 80007, "There have been too many calls to this account."),
        };
        let answer = self.refuse(world, &refusal);
        if !headers {
            return answer;
        }
        match self {
            // The reset is written as seconds to go or as an epoch value, as both are reported.
            Self::Telnyx => {
                let epoch = u64::try_from(world.now.timestamp()).unwrap_or(0) + retry_after_s;
                let reset = if retry_after_s.is_multiple_of(2) { epoch } else { retry_after_s };
                answer.header("x-ratelimit-limit", 100).header("x-ratelimit-remaining", 0).header("x-ratelimit-reset", reset)
            }
            Self::Meta => answer.header(
                "x-business-use-case-usage",
                json!({&world.config.meta.waba_id: [{"type": "whatsapp_business_management", "call_count": 100, "total_cputime": 25,
                    "total_time": 25, "estimated_time_to_regain_access": retry_after_s.div_ceil(60)}]}),
            ),
        }
    }
}

pub(crate) fn operations_of(provider: Provider) -> Box<dyn Iterator<Item = &'static Operation>> {
    match provider {
        Provider::Telnyx => Box::new(telnyx::operations()),
        Provider::Meta => Box::new(meta::operations()),
    }
}

/// What a proxy says when what is behind it is gone.
fn broken(status: u16) -> Answer {
    Answer { status, ..Answer::bytes("text/html", "<html><body><h1>Bad gateway</h1></body></html>") }
}

/// `v25.0`
fn is_version(segment: &str) -> bool {
    segment.strip_prefix('v').and_then(|rest| rest.split_once('.')).is_some_and(|(major, minor)| {
        [major, minor].iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    })
}
