//! Every way a call can fail, and what the client says about it.

use crate::server::{self, Server, answer, bytes, with_header};
use domain::{Failure, Kind};
use providers::{
    Meta,
    meta::{self, Class, Recipient, body},
    telnyx::{self, NewOrder},
};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::time::Duration;

/// Of who is given up: short for a test, and long enough for a busy machine to read a request.
const SHORT: Duration = Duration::from_secs(3);
/// Of who answers, or is gone: never over.
const LONG: Duration = Duration::from_secs(300);

fn an_order() -> NewOrder {
    NewOrder {
        phone_number: "+212520000042".to_owned(),
        customer_reference: "ref-1".to_owned(),
        requirement_group_id: None,
        billing_group_id: None,
    }
}

fn a_message() -> Value {
    body::message(Recipient::Phone("+212600000101"), "text", body::text("Bonjour", false), "attempt-1")
}

async fn order_against(server: &Server) -> Failure {
    server::telnyx(&server.url).create_order(&an_order()).await.expect_err("it fails")
}

async fn send_against(server: &Server) -> Failure {
    server::meta(&server.url).send("512", &a_message()).await.expect_err("it fails")
}

/// Failures of a read, of a write that may be repeated, and of one that may not.
async fn three_ways(url: &str, patience: Duration) -> [Kind; 3] {
    let telnyx = server::telnyx(url).with_patience(patience);
    [
        telnyx.balance().await.expect_err("it fails").kind,
        telnyx.patch_voice("1").await.expect_err("it fails").kind,
        telnyx.create_order(&an_order()).await.expect_err("it fails").kind,
    ]
}

#[tokio::test]
async fn nobody_listens_so_nothing_happened() {
    let (url, _socket) = server::nobody();
    assert_eq!(three_ways(&url, LONG).await, [Kind::Transient; 3]);
}

#[tokio::test]
async fn an_answer_lost_after_the_act_is_unclear_only_where_repeating_would_hurt() {
    let (url, read) = server::rude("", true).await;
    assert_eq!(three_ways(&url, LONG).await, [Kind::Transient, Kind::Transient, Kind::Unclear]);
    assert_eq!(*read.lock().unwrap(), 3, "no call is tried twice by the transport");
}

#[tokio::test]
async fn a_silent_provider_is_given_up() {
    let (url, read) = server::rude("", false).await;
    assert_eq!(three_ways(&url, SHORT).await, [Kind::Transient, Kind::Transient, Kind::Unclear]);
    assert_eq!(*read.lock().unwrap(), 3);
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up() {
    let (url, _) = server::rude("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"data\":", false).await;
    assert_eq!(three_ways(&url, SHORT).await, [Kind::Transient, Kind::Transient, Kind::Unclear]);
}

#[tokio::test]
async fn a_body_cut_short_is_no_answer() {
    let (url, _) = server::rude("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"data\":", true).await;
    assert_eq!(three_ways(&url, LONG).await, [Kind::Transient, Kind::Transient, Kind::Unclear]);
}

#[tokio::test]
async fn a_success_that_cannot_be_read_leaves_a_purchase_unclear() {
    let server = Server::start(|_| bytes(200, "<html>welcome</html>")).await;
    assert_eq!(order_against(&server).await.kind, Kind::Unclear);
    let failure = server::telnyx(&server.url).balance().await.unwrap_err();
    assert_eq!(failure.kind, Kind::Transient);
    assert!(!failure.why.contains("html"), "a body is not quoted: {failure}");
}

#[tokio::test]
async fn an_endless_answer_is_not_read() {
    let server = Server::start(|_| bytes(200, vec![b' '; 9 * 1024 * 1024])).await;
    assert_eq!(order_against(&server).await.kind, Kind::Unclear);
    assert_eq!(server::telnyx(&server.url).balance().await.unwrap_err().kind, Kind::Rejected);
}

#[tokio::test]
async fn errors_without_json_go_by_status() {
    let cases = [
        (500, Kind::Unclear, Kind::Transient),
        (502, Kind::Unclear, Kind::Transient),
        (504, Kind::Unclear, Kind::Transient),
        (408, Kind::Unclear, Kind::Transient),
        (401, Kind::Unauthorized, Kind::Unauthorized),
        (429, Kind::Throttled, Kind::Throttled),
        (400, Kind::Rejected, Kind::Rejected),
        (404, Kind::Rejected, Kind::Rejected),
        (302, Kind::Rejected, Kind::Rejected),
    ];
    for (status, writing, reading) in cases {
        let server = Server::start(move |_| bytes(status, "oops")).await;
        assert_eq!(order_against(&server).await.kind, writing, "telnyx {status}");
        assert_eq!(server::telnyx(&server.url).balance().await.unwrap_err().kind, reading, "telnyx {status}");
        assert_eq!(send_against(&server).await.kind, writing, "meta {status}");
        assert_eq!(server::meta(&server.url).account().await.unwrap_err().kind, reading, "meta {status}");
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let server = Server::start(|_| with_header(bytes(302, ""), "location", "/elsewhere")).await;
    order_against(&server).await;
    server.only();
}

#[tokio::test]
async fn telnyx_codes_count_before_the_status() {
    let cases = [
        (409, "85001", Kind::Rejected),
        (422, "85001", Kind::Rejected),
        (500, "85001", Kind::Rejected),
        (422, "85000", Kind::Rejected),
        (402, "20100", Kind::Unauthorized),
        (422, "20100", Kind::Unauthorized),
        (403, "10038", Kind::Unauthorized),
        (401, "10009", Kind::Unauthorized),
        (500, "10007", Kind::Unclear),
        (503, "10037", Kind::Unclear),
        (409, "10036", Kind::Transient),
        (429, "10011", Kind::Throttled),
        (422, "10011", Kind::Rejected),
        (422, "99999", Kind::Rejected),
    ];
    for (status, code, kind) in cases {
        let server = Server::always(status, json!({"errors": [{"code": code, "title": "No", "detail": "Not now."}]})).await;
        let failure = order_against(&server).await;
        assert_eq!((failure.kind, failure.code.as_deref()), (kind, Some(code)), "{status}");
        assert_eq!(failure.why, "Telnyx: No: Not now.");
    }
}

#[tokio::test]
async fn telnyx_errors_are_read_whatever_their_shape() {
    let bodies = [
        json!({"errors": [{"code": 85001, "title": "Gone", "description": "as a number"}]}),
        json!({"errors": [{"code": "12345", "title": "first, unknown"}, {"code": "85001", "title": null}]}),
        json!({"errors": [{"code": "85001", "title": null, "detail": null, "source": null, "meta": null, "new": {}}]}),
    ];
    for body in bodies {
        let failure = order_against(&Server::always(422, body).await).await;
        assert!(failure.kind == Kind::Rejected && failure.has_code("85001"), "{failure:?}");
    }
    for body in [json!({"errors": []}), json!({"errors": null}), json!([])] {
        let failure = order_against(&Server::always(422, body).await).await;
        assert!(failure.kind == Kind::Rejected && failure.has_code("422"), "{failure:?}");
    }
}

#[tokio::test]
async fn telnyx_throttles_say_how_long_in_many_ways() {
    let too_many = |headers: &'static [(&'static str, &'static str)]| {
        Server::start(move |_| {
            let refused = answer(429, &json!({"errors": [{"code": "10011", "title": "Too many requests"}]}));
            headers.iter().fold(refused, |response, (name, value)| with_header(response, name, value))
        })
    };
    let cases: [(&'static [_], u64); 7] = [
        (&[], 5_000),
        (&[("retry-after", "7")], 7_000),
        (&[("retry-after-ms", "250"), ("retry-after", "7")], 250),
        (&[("date", "Sat, 21 Nov 2026 10:00:00 GMT"), ("retry-after", "Sat, 21 Nov 2026 10:00:30 GMT")], 30_000),
        (&[("x-ratelimit-reset", "12")], 12_000),
        (&[("date", "Sat, 21 Nov 2026 10:00:00 GMT"), ("x-ratelimit-reset", "1795255242")], 42_000),
        (&[("x-ratelimit-reset", "soon")], 5_000),
    ];
    for (headers, wait_ms) in cases {
        let failure = order_against(&too_many(headers).await).await;
        assert_eq!((failure.kind, failure.retry_after_ms), (Kind::Throttled, Some(wait_ms)), "{headers:?}");
    }
}

#[tokio::test]
async fn every_code_of_metas_table_becomes_the_kind_of_its_class() {
    for rule in meta::ERRORS {
        let server = Server::always(400, json!({"error": {"code": rule.code, "message": "no"}})).await;
        let failure = send_against(&server).await;
        let kind = match rule.class {
            Class::R => Kind::Transient,
            Class::T => Kind::Throttled,
            Class::A => Kind::Unauthorized,
            Class::W | Class::S | Class::X | Class::D => Kind::Rejected,
        };
        assert_eq!(failure.kind, kind, "{}", rule.code);
        assert_eq!(meta::code_of(&failure), Some(rule.code));
        if rule.class == Class::T {
            assert_eq!(failure.retry_after(), rule.delay, "{}", rule.code);
        }
    }
}

#[test]
fn metas_table_is_sorted_and_every_throttle_names_its_wait() {
    assert!(meta::ERRORS.is_sorted_by(|a, b| a.code < b.code));
    for rule in meta::ERRORS {
        assert_eq!(meta::rule(rule.code), Some(rule));
        assert!(!rule.meaning.is_empty() && (rule.class != Class::T || rule.delay.is_some()), "{rule:?}");
    }
    assert_eq!(meta::rule(250).map(|rule| rule.class), Some(Class::A));
    assert_eq!(meta::rule(424242), None);
    for rule in telnyx::ERRORS {
        assert_eq!(telnyx::rule(rule.code), Some(rule));
    }
}

#[tokio::test]
async fn unknown_codes_of_meta_go_by_is_transient_and_status() {
    let cases = [
        (400, json!({"code": 424242, "message": "?"}), Kind::Rejected),
        (400, json!({"code": 424242, "message": "?", "is_transient": true}), Kind::Transient),
        (500, json!({"code": 424242, "message": "?"}), Kind::Transient),
        (400, json!({"code": "131016", "message": "as text"}), Kind::Transient),
        (400, json!({"code": 100, "message": "?", "is_transient": true}), Kind::Transient),
    ];
    for (status, error, kind) in cases {
        let failure = send_against(&Server::always(status, json!({"error": error})).await).await;
        assert_eq!(failure.kind, kind, "{error}");
    }
}

#[tokio::test]
async fn metas_words_are_kept_once_and_a_subcode_tells_a_bad_parameter_apart() {
    let error = json!({"error": {"message": "(#100) Invalid parameter", "type": "OAuthException", "code": 100, "error_subcode": 2388299,
        "error_user_title": "Variables", "error_user_msg": "Variables cannot open the text.", "error_data": "plain text", "fbtrace_id": "A1"}});
    let failure = send_against(&Server::always(400, error).await).await;
    assert_eq!(failure.code.as_deref(), Some("100.2388299"));
    assert_eq!(meta::code_of(&failure), Some(100));
    assert_eq!(failure.why, "Meta: a parameter is wrong (Invalid parameter; plain text; Variables cannot open the text.)");
}

#[tokio::test]
async fn meta_says_how_long_in_headers_but_a_lock_out_is_never_shortened() {
    let refused = |code: i64| {
        Server::start(move |_| {
            let usage = r#"{"401":[{"type":"whatsapp_business_management","call_count":100,"total_cputime":2,"total_time":3,"estimated_time_to_regain_access":9}]}"#;
            with_header(answer(400, &json!({"error": {"code": code, "message": "slow"}})), "x-business-use-case-usage", usage)
        })
    };
    let server = refused(80007).await;
    let meta = server::meta(&server.url);
    let failure = meta.account().await.unwrap_err();
    assert_eq!((failure.kind, failure.retry_after()), (Kind::Throttled, Some(Duration::from_secs(9 * 60))));
    assert_eq!(meta.usage().accounts["401"].percent, 100);
    let failure = send_against(&refused(133016).await).await;
    assert_eq!(failure.retry_after(), Some(Duration::from_secs(72 * 3600)));
    let server = Server::start(|_| with_header(answer(400, &json!({"error": {"code": 131056}})), "retry-after", "17")).await;
    assert_eq!(send_against(&server).await.retry_after(), Some(Duration::from_secs(17)));
}

#[tokio::test]
async fn an_accepted_message_without_an_id_is_unclear() {
    for body in [json!({"messages": []}), json!({"messaging_product": "whatsapp"})] {
        assert_eq!(send_against(&Server::always(200, body).await).await.kind, Kind::Unclear);
    }
}

#[test]
fn a_client_is_refused_a_base_that_is_no_web_address() {
    let new = |base: &str| Meta::new(base, "v25.0", SecretString::from("t"), "1", SecretString::from("s"), "2", "3");
    for base in ["", "graph.facebook.com", "ftp://graph.facebook.com", "data:text/plain,x"] {
        assert!(new(base).is_err(), "{base}");
    }
    assert!(new("http://127.0.0.1:1").is_ok());
}

#[test]
fn nothing_secret_is_printed() {
    let meta = server::meta("http://127.0.0.1:1");
    let telnyx = server::telnyx("http://127.0.0.1:1");
    let printed = format!("{meta:?} {telnyx:?}");
    for secret in ["TOKEN-meta", "app-secret", "KEY-telnyx"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}
