//! Socket.IO at `/socket.io`: the events of `GET /v1/events`, for dashboards that use `socket.io-client`.
//!
//! A socket is shown what its key's tenant is shown, by a reader of its own: there is no room that a client could name. Events are
//! `message:received`, `message:status`, `line:status`, `template:status` and `run:status`, with the stream's own payload; any
//! front tells them all. Long polling needs the same front for every request of a session; websockets do not.

use crate::{
    App,
    caller::{bearer, granted, identify},
    events::{EventView, Reader},
    problem::Code,
};
use axum::http::Method;
use serde::Deserialize;
use socketioxide::{
    SendError, SocketError, SocketIo,
    extract::{SocketRef, TryData},
    handler::ConnectHandler as _,
    layer::SocketIoLayer,
};
use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Who has not shown a key by then is cut off.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Events that may wait for a slow client.
const BUFFER_PACKETS: usize = 256;
/// A client that takes nothing for so long is cut off; it comes again with the id of its last event.
const SLOW_PATIENCE: Duration = Duration::from_secs(10);
/// How often a full buffer is looked at.
const SLOW_PERIOD: Duration = Duration::from_millis(20);
/// What a client may say at once: its key and little more. Bytes.
const SAID_BYTES: usize = 16 << 10;
/// What it is told at once by long polling, in bytes.
const TOLD_BYTES: u64 = 1 << 20;

/// `auth` of `socket.io-client`.
#[derive(Debug, Default, Deserialize)]
struct Handshake {
    /// An API key, unless it is in the `Authorization` header.
    token: Option<String>,
    /// Go on after the event of this id.
    last_event_id: Option<String>,
}

/// What `connect_error` says: a code of the API.
#[derive(Debug, Clone, Copy)]
struct Refused(&'static str);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Opened before the socket is, so that a refusal reaches the client as `connect_error`.
type Opened = Arc<Mutex<Option<Reader>>>;

pub(crate) fn layer(app: &App) -> SocketIoLayer {
    let (layer, io) = SocketIo::builder()
        .req_path("/socket.io")
        .connect_timeout(CONNECT_PATIENCE)
        .max_buffer_size(BUFFER_PACKETS)
        .max_payload(TOLD_BYTES)
        .ws_max_message_size(SAID_BYTES)
        .ws_max_frame_size(SAID_BYTES)
        .build_layer();
    let door = app.clone();
    let admit = async move |socket: SocketRef, TryData(handshake): TryData<Handshake>| {
        let reader = open(door, &socket, handshake.unwrap_or_default()).await?;
        socket.extensions.insert::<Opened>(Arc::new(Mutex::new(Some(reader))));
        Ok::<_, Refused>(())
    };
    io.ns("/", tell.with(admit));
    let stop = app.front.stop.clone();
    tokio::spawn(async move {
        stop.cancelled().await;
        io.close().await;
    });
    layer
}

async fn open(app: App, socket: &SocketRef, handshake: Handshake) -> Result<Reader, Refused> {
    let headers = &socket.req_parts().headers;
    let secret = match &handshake.token {
        Some(token) => token.as_str(),
        None => bearer(headers).map_err(|problem| Refused(problem.code.code))?,
    };
    let caller = identify(&app, secret).await.map_err(|problem| Refused(problem.code.code))?;
    let caller = caller.ok_or(Refused(Code::BAD_KEY.code))?;
    if !granted(&Method::GET, "/v1/events").contains(&caller.role) {
        return Err(Refused(Code::ROLE_NOT_ALLOWED.code));
    }
    let (Some(tenant), Some(key)) = (caller.tenant, caller.key) else { return Err(Refused(Code::NEEDS_TENANT.code)) };
    let reader = Reader::open(app, tenant, key, handshake.last_event_id.as_deref()).await;
    reader.map_err(|problem| Refused(problem.code.code))
}

/// Until the client goes, its key ends or the service stops.
async fn tell(socket: SocketRef) {
    let gone = CancellationToken::new();
    let left = gone.clone();
    socket.on_disconnect(async move || left.cancel());
    let opened = socket.extensions.remove::<Opened>();
    let Some(mut reader) = opened.and_then(|opened| opened.lock().ok()?.take()) else { return };
    loop {
        let event = tokio::select! {
            () = gone.cancelled() => return,
            event = reader.next() => event,
        };
        let Some(event) = event else { break };
        if !emit(&socket, &event).await {
            break;
        }
    }
    // One that is gone already is gone.
    let _ = socket.disconnect();
}

/// `false`: the client is gone, or takes nothing.
async fn emit(socket: &SocketRef, event: &EventView) -> bool {
    let name = event.r#type.replace('.', ":");
    let told = tokio::time::timeout(SLOW_PATIENCE, async {
        loop {
            match socket.emit(&name, event) {
                Ok(()) => return true,
                Err(SendError::Socket(SocketError::InternalChannelFull)) => tokio::time::sleep(SLOW_PERIOD).await,
                Err(_) => return false,
            }
        }
    });
    told.await.unwrap_or(false)
}
