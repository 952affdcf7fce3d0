//! Socket.IO over a real websocket: Engine.IO 4 and Socket.IO 5, spoken by hand.

use crate::{
    service::{ADMIN, Service},
    stream::{reply, tell},
};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use sqlx::PgPool;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

/// Longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(300);

struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

/// What the server says: an event with its payload, or why it did not let us in.
#[derive(Debug, PartialEq)]
enum Said {
    Connected,
    Refused(String),
    Event(String, Value),
    Closed,
}

impl Socket {
    /// Connects with this `auth`, and says what came of it.
    async fn open(service: &Service, auth: &Value) -> (Self, Said) {
        let url = format!("{}/socket.io/?EIO=4&transport=websocket", service.base.replace("http", "ws"));
        let (socket, _) = connect_async(url).await.unwrap();
        let mut socket = Self(socket);
        assert!(socket.text().await.unwrap().starts_with('0'), "an Engine.IO handshake");
        socket.0.send(Message::text(format!("40{auth}"))).await.unwrap();
        let said = socket.next().await;
        (socket, said)
    }

    async fn text(&mut self) -> Option<String> {
        let next = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("a word in time")?;
        match next {
            Ok(Message::Text(text)) => Some(text.to_string()),
            _ => None,
        }
    }

    async fn next(&mut self) -> Said {
        loop {
            let Some(text) = self.text().await else { return Said::Closed };
            if text == "2" {
                self.0.send(Message::text("3")).await.unwrap();
            } else if text.starts_with("40") {
                return Said::Connected;
            } else if text.starts_with("41") {
                return Said::Closed;
            } else if let Some(why) = text.strip_prefix("44") {
                let why: Value = serde_json::from_str(why).unwrap();
                return Said::Refused(why["message"].as_str().unwrap().to_owned());
            } else if let Some(event) = text.strip_prefix("42") {
                let (name, payload): (String, Value) = serde_json::from_str(event).unwrap();
                return Said::Event(name, payload);
            } else if text != "1" {
                panic!("{text}");
            }
        }
    }

    async fn event(&mut self) -> (String, Value) {
        match self.next().await {
            Said::Event(name, payload) => (name, payload),
            other => panic!("{other:?}"),
        }
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn every_front_tells_a_socket_what_its_company_is_told_and_nothing_else(db: PgPool) {
    let service = Service::open(db.clone()).await;
    let second = Service::beside(db).await;
    let (own, other) = (service.tenant("Atlas").await, service.tenant("Rif").await);
    let (key, their_key) = (service.key(own, "recruiter").await, service.key(other, "recruiter").await);
    let (line, _) = service.order(own).await;
    // The client's word on its room is nobody's word.
    let (mut ours, said) = Socket::open(&second, &json!({ "token": key, "room": other, "tenant_id": other })).await;
    assert_eq!(said, Said::Connected);
    let (mut theirs, said) = Socket::open(&second, &json!({ "token": their_key })).await;
    assert_eq!(said, Said::Connected);
    ours.0.send(Message::text(format!(r#"42["join","{other}"]"#))).await.unwrap();
    tell(&service, other, 1).await;
    let id = reply(&service, own, &line, "+212600000101", "Je suis disponible").await;
    let (name, event) = ours.event().await;
    assert_eq!((name.as_str(), &event["data"]["id"]), ("message:received", &json!(id)));
    assert_eq!(event["type"], "message.received");
    assert_eq!(event["data"]["content"], json!({ "body": "Je suis disponible" }));
    assert_eq!(event["data"]["from"], "+212600000101");
    let (name, event) = theirs.event().await;
    assert_eq!((name.as_str(), &event["data"]), ("line:status", &json!({ "n": 1 })));
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_socket_goes_on_after_the_last_event_it_was_told_however_many_there_are(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    let key = service.key(tenant, "recruiter").await;
    let (mut socket, _) = Socket::open(&service, &json!({ "token": key })).await;
    tell(&service, tenant, 0).await;
    let last = socket.event().await.1["id"].clone();
    drop(socket);
    // More than a socket's buffer holds.
    for n in 1..600 {
        tell(&service, tenant, n).await;
    }
    let (mut socket, said) = Socket::open(&service, &json!({ "token": key, "last_event_id": last })).await;
    assert_eq!(said, Said::Connected);
    for n in 1..600 {
        assert_eq!(socket.event().await.1["data"]["n"], n);
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn without_a_good_key_of_a_company_there_is_no_socket(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    let key = service.key(tenant, "recruiter").await;
    for (auth, code) in [
        (json!({}), "no_key"),
        (json!({ "token": "lgn_made-up" }), "bad_key"),
        (json!({ "token": ADMIN }), "needs_tenant"),
        (json!({ "token": key, "last_event_id": "x" }), "bad_last_event_id"),
        (json!({ "token": 7 }), "no_key"),
        (json!([1, 2]), "no_key"),
    ] {
        let (_, said) = Socket::open(&service, &auth).await;
        assert_eq!(said, Said::Refused(code.into()), "{auth}");
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_stop_ends_sockets(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    let key = service.key(tenant, "recruiter").await;
    let (mut socket, said) = Socket::open(&service, &json!({ "token": key })).await;
    assert_eq!(said, Said::Connected);
    drop(service);
    assert_eq!(socket.next().await, Said::Closed);
}
