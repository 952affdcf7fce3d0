//! `GET /v1/events`: what happens to a tenant, live, resumable, over any number of fronts.
//!
//! An event's row holds no content: that is sealed where the message is, and added when the event is told.

use crate::{
    App,
    ask::Query,
    caller::Caller,
    messages::MessageView,
    problem::{Code, Problem},
};
use axum::{
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse as _, Response, Sse,
        sse::{Event as SseEvent, KeepAlive},
    },
};
use chrono::{DateTime, Utc};
use domain::TenantId;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool, postgres::PgListener};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use store::{
    contacts::{self, Contact},
    events::{self, Event},
    messages,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Events read at once.
const READ_EVENTS: i64 = 200;
/// Wake-ups that a slow stream may be behind before it is told to look at everything.
const NEWS_BEHIND: usize = 1_024;
/// Everybody looks after this long, told or not, and checks that the key is still good.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// How soon to look again for events that wait for an older transaction.
const UNSETTLED_PERIOD: Duration = Duration::from_millis(10);
/// Pause before a lost LISTEN connection is opened again.
const LISTEN_AGAIN: Duration = Duration::from_millis(500);
/// An event that tells who wrote, too.
const RECEIVED: &str = "message.received";
/// Comment lines keep proxies from hanging up.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What streams share: who has news, and how far the stream goes.
pub(crate) struct News {
    /// `None`: look, whoever you are.
    send: broadcast::Sender<Option<TenantId>>,
    tail: Arc<AtomicI64>,
    seats: Arc<Semaphore>,
    stop: CancellationToken,
}

impl News {
    pub(crate) fn start(db: PgPool, streams: usize, stop: CancellationToken) -> Self {
        let (send, _) = broadcast::channel(NEWS_BEHIND);
        let tail = Arc::new(AtomicI64::new(0));
        let listener = Listener { db, send: send.clone(), tail: tail.clone(), pending: HashMap::new() };
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = listener.run() => {}
            }
        });
        Self { send, tail, seats: Arc::new(Semaphore::new(streams)), stop }
    }
}

/// One per front: hears who has news and moves the tail on.
struct Listener {
    db: PgPool,
    send: broadcast::Sender<Option<TenantId>>,
    tail: Arc<AtomicI64>,
    /// Who was told of, and up to which id they may have to wait.
    pending: HashMap<Option<TenantId>, i64>,
}

impl Listener {
    async fn run(mut self) {
        loop {
            let lost = match self.listen().await {
                Err(error) => error,
                Ok(never) => match never {},
            };
            if matches!(lost, sqlx::Error::PoolClosed) {
                return;
            }
            tracing::warn!(error = &lost as &dyn std::error::Error, "Live events come late: LISTEN was lost");
            tokio::time::sleep(LISTEN_AGAIN).await;
        }
    }

    async fn listen(&mut self) -> sqlx::Result<Infallible> {
        let mut listener = open(&self.db).await?;
        // Whatever was told while nobody listened.
        let (mut told, mut settled) = (vec![None], i64::MIN);
        loop {
            let reach = events::reach(&self.db).await?;
            let news: HashSet<Option<TenantId>> = told.drain(..).collect();
            self.pending.extend(news.iter().map(|tenant| (*tenant, reach.head)));
            self.tail.fetch_max(reach.tail, Ordering::AcqRel);
            // Who still waits looks again once more has settled: before that they would find nothing.
            for tenant in self.pending.keys().filter(|tenant| reach.tail > settled || news.contains(tenant)) {
                let _ = self.send.send(*tenant);
            }
            settled = reach.tail;
            self.pending.retain(|_, head| *head > reach.tail);
            let wait = if self.pending.is_empty() { LOOK_PERIOD } else { UNSETTLED_PERIOD };
            match tokio::time::timeout(wait, listener.try_recv()).await {
                Err(_) if self.pending.is_empty() => told.push(None),
                Err(_) => {}
                // `None`: the connection was lost and is back.
                Ok(news) => told.push(news?.and_then(|news| news.payload().parse().ok())),
            }
            while let Some(news) = listener.next_buffered() {
                told.push(news.payload().parse().ok());
            }
        }
    }
}

async fn open(db: &PgPool) -> sqlx::Result<PgListener> {
    let mut listener = PgListener::connect_with(db).await?;
    listener.listen(events::CHANNEL).await?;
    Ok(listener)
}

/// An event, in `data:` of the stream.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Event)]
pub(crate) struct EventView {
    /// Also the stream's `id:`; send it back as `Last-Event-ID`.
    pub(crate) id: String,
    /// `message.received`, `message.status`, `line.status`, `template.status` or `run.status`; also the stream's `event:`.
    pub(crate) r#type: String,
    tenant_id: Uuid,
    occurred_at: DateTime<Utc>,
    /// The resource as its GET shows it; of `message.received` also `from` (phone or user id) and `contact`.
    data: Value,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct From {
    /// For clients that cannot set `Last-Event-ID`.
    last_event_id: Option<String>,
}

/// Server-Sent Events of the key's tenant, from now on or after `Last-Event-ID`.
#[utoipa::path(get, path = "/v1/events", tag = "events", params(From, ("last-event-id" = Option<String>, Header)),
    responses((status = 200, description = "A stream", body = EventView, content_type = "text/event-stream")))]
pub(crate) async fn stream(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Query(from): Query<From>,
) -> Result<Response, Problem> {
    let (Some(tenant), Some(key)) = (caller.tenant, caller.key) else { return Err(Code::NEEDS_TENANT.into()) };
    let last = match headers.get("last-event-id") {
        Some(value) => Some(value.to_str().map_err(|_| Code::BAD_LAST_EVENT_ID)?.to_owned()),
        None => from.last_event_id,
    };
    let reader = Reader::open(app, tenant, key, last.as_deref()).await?;
    let stream = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        let shown = SseEvent::default().id(&event.id).event(&event.r#type).json_data(&event).ok()?;
        Some((Ok::<_, Infallible>(shown), reader))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// A tenant's events one after the other, for as long as its key is good.
pub(crate) struct Reader {
    app: App,
    tenant: TenantId,
    key: domain::KeyId,
    /// Id of the last event shown, or looked past.
    cursor: i64,
    news: broadcast::Receiver<Option<TenantId>>,
    ready: VecDeque<EventView>,
    /// There may be more than `ready` holds.
    look: bool,
    _seat: OwnedSemaphorePermit,
}

impl Reader {
    /// From now on, or after the event of this id.
    pub(crate) async fn open(app: App, tenant: TenantId, key: domain::KeyId, last: Option<&str>) -> Result<Self, Problem> {
        let seat = app.news.seats.clone().try_acquire_owned().map_err(|_| Code::OVERLOADED)?;
        // Before the first look, so that nothing falls between the two.
        let news = app.news.send.subscribe();
        let reach = events::reach(&app.front.db).await?;
        app.news.tail.fetch_max(reach.tail, Ordering::AcqRel);
        let cursor = match last.filter(|last| !last.is_empty()) {
            Some(last) => last.parse().ok().filter(|last| *last >= 0).ok_or(Code::BAD_LAST_EVENT_ID)?,
            None => reach.tail,
        };
        Ok(Self { tenant, key, cursor, news, ready: VecDeque::new(), look: true, app, _seat: seat })
    }

    /// The next event; `None` ends the stream, and the client comes again with its `Last-Event-ID`.
    pub(crate) async fn next(&mut self) -> Option<EventView> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.app.news.stop.is_cancelled() {
                return None;
            }
            if !self.look {
                self.wait().await?;
            }
            // The tail first: what is read after it is whole up to there.
            let tail = self.app.news.tail.load(Ordering::Acquire);
            // One connection for the whole look: each time one is taken, it is asked whether it is still alive.
            let mut db = self.app.front.db.begin().await.ok()?;
            store::plans::by_key(&mut db).await.ok()?;
            let found = events::between(&mut *db, self.tenant, self.cursor, tail, READ_EVENTS).await.ok()?;
            self.look = i64::try_from(found.len()).is_ok_and(|found| found == READ_EVENTS);
            self.cursor = found.last().map_or(self.cursor, |last| last.id);
            self.ready = self.show(&mut db, found).await.ok()?.into();
            db.commit().await.ok()?;
        }
    }

    /// Until there may be news. `None`: the service stops, or the key is no longer good.
    async fn wait(&mut self) -> Option<()> {
        let stop = self.app.news.stop.clone();
        loop {
            let news = tokio::select! {
                () = stop.cancelled() => return None,
                news = self.news.recv() => news,
            };
            match news {
                Ok(Some(tenant)) if tenant != self.tenant => {}
                Ok(Some(_)) | Err(broadcast::error::RecvError::Lagged(_)) => return Some(()),
                Ok(None) => {
                    let good = store::keys::is_good(&self.app.front.db, self.key).await.ok()?;
                    return good.then_some(());
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Adds to events of messages what they hold back: the message as its GET shows it now, under what the event says of then.
    async fn show(&self, db: &mut PgConnection, found: Vec<Event>) -> sqlx::Result<Vec<EventView>> {
        let tenant = self.tenant;
        let named = |event: &Event, name: &str| event.data[name].as_str().and_then(|id| id.parse::<Uuid>().ok());
        let told: Vec<Uuid> =
            found.iter().filter(|event| event.kind.starts_with("message.")).filter_map(|event| named(event, "id")).collect();
        let people: Vec<Uuid> =
            found.iter().filter(|event| event.kind == RECEIVED).filter_map(|event| named(event, "contact_id")).collect();
        let mut messages: HashMap<Uuid, Value> = HashMap::new();
        if !told.is_empty() {
            for message in messages::these(&mut *db, tenant, &told).await? {
                messages.insert(message.message_id.0, json!(MessageView::new(&self.app, message)));
            }
        }
        let contacts = if people.is_empty() { Vec::new() } else { contacts::these(&mut *db, tenant, &people).await? };
        let contacts: HashMap<Uuid, Contact> = contacts.into_iter().map(|contact| (contact.contact_id.0, contact)).collect();
        let shown = found.into_iter().map(|event| {
            let message = named(&event, "id").and_then(|id| messages.get(&id));
            let contact = named(&event, "contact_id").and_then(|id| contacts.get(&id)).filter(|_| event.kind == RECEIVED);
            let Event { id, kind, mut data, occurred_at } = event;
            if let (Some(whole), Value::Object(said)) = (message.and_then(Value::as_object), &mut data) {
                for (name, value) in whole {
                    said.entry(name).or_insert_with(|| value.clone());
                }
                if let Some(contact) = contact {
                    said.insert("from".into(), json!(contact.address()));
                    said.insert("contact".into(), json!(contact));
                }
            }
            EventView { id: id.to_string(), r#type: kind, tenant_id: tenant.0, occurred_at, data }
        });
        Ok(shown.collect())
    }
}
