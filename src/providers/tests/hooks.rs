//! Webhooks: what is believed, what is not, and what becomes of every shape of news.

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, KeyInit, Mac};
use proptest::prelude::*;
use providers::{
    MetaNews, SignatureError, TelnyxNews,
    meta::{TemplateCategory, TemplateStatus},
    meta_hook::{self, Content, Reply, Status},
    telnyx::OrderStatus,
    telnyx_hook::{self, PublicKey},
};
use secrecy::SecretString;
use serde_json::{Value, json};
use sha2::Sha256;

fn key() -> (SigningKey, PublicKey) {
    let signing = SigningKey::from_bytes(&[7; 32]);
    let public = BASE64_STANDARD.encode(signing.verifying_key().as_bytes()).parse().expect("a public key");
    (signing, public)
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).expect("a time")
}

const NOW: i64 = 1_795_168_800;

fn signed(timestamp: &str, raw: &[u8]) -> String {
    BASE64_STANDARD.encode(key().0.sign(&[timestamp.as_bytes(), b"|", raw].concat()).to_bytes())
}

#[test]
fn telnyx_is_believed_within_five_minutes_of_now() {
    let (_, key) = key();
    let raw = br#"{"data":{}}"#;
    let timestamp = NOW.to_string();
    let signature = signed(&timestamp, raw);
    let verify = |now: i64| telnyx_hook::verify(&key, Some(&signature), Some(&timestamp), raw, at(now));
    for now in [NOW, NOW - 300, NOW + 300] {
        assert_eq!(verify(now), Ok(()), "{now}");
    }
    for now in [NOW - 301, NOW + 301, 0] {
        assert_eq!(verify(now), Err(SignatureError::Stale), "{now}");
    }
}

#[test]
fn telnyx_is_not_believed_otherwise() {
    let (_, key) = key();
    let raw = br#"{"data":{}}"#;
    let now = NOW.to_string();
    let good = signed(&now, raw);
    let verify = |signature: Option<&str>, timestamp: Option<&str>, raw: &[u8]| {
        telnyx_hook::verify(&key, signature, timestamp, raw, at(NOW))
    };
    assert_eq!(verify(None, Some(&now), raw), Err(SignatureError::Missing));
    assert_eq!(verify(Some(&good), None, raw), Err(SignatureError::Missing));
    assert_eq!(verify(Some("!!!"), Some(&now), raw), Err(SignatureError::Malformed));
    assert_eq!(verify(Some("AAAA"), Some(&now), raw), Err(SignatureError::Malformed));
    assert_eq!(verify(Some(&format!("{good} ")), Some(&now), raw), Err(SignatureError::Malformed));
    assert_eq!(verify(Some(&good), Some(&(NOW + 1).to_string()), raw), Err(SignatureError::Mismatch));
    assert_eq!(verify(Some(&good), Some(&now), b"{}"), Err(SignatureError::Mismatch));
    let words = signed("now", raw);
    assert_eq!(verify(Some(&words), Some("now"), raw), Err(SignatureError::Malformed));
    let stranger =
        BASE64_STANDARD.encode(SigningKey::from_bytes(&[8; 32]).sign(&[now.as_bytes(), b"|", raw].concat()).to_bytes());
    assert_eq!(verify(Some(&stranger), Some(&now), raw), Err(SignatureError::Mismatch));
}

#[test]
fn a_public_key_is_32_bytes_of_a_real_point() {
    let weak = BASE64_STANDARD.encode([0; 32]);
    for text in ["", "abc", "AAAA", weak.as_str()] {
        assert!(text.parse::<PublicKey>().is_err(), "{text}");
    }
}

const SECRET: &str = "demo-app-secret-do-not-use";
/// The body of the published vector, with its escapes.
const ESCAPED: &str = concat!(
    r#"{"object":"whatsapp_business_account","entry":[{"id":"401122334455667","changes":[{"value":{"messaging_product":"whatsapp","#,
    r#""metadata":{"display_phone_number":"212520000042","phone_number_id":"512233445566778"},"contacts":[{"profile":{"name":"Yassine"},"#,
    r#""wa_id":"212600000101","user_id":"MA.48201937465520193"}],"messages":[{"from":"212600000101","from_user_id":"MA.48201937465520193","#,
    r#""id":"wamid.DEMO0001","timestamp":"1795168800","type":"text","text":{"body":"Pr\u00eat pour l\u2019entretien \u2014 \u0646\u0639\u0645"}}]},"#,
    r#""field":"messages"}]}]}"#
);

fn secrets(texts: &[&str]) -> Vec<SecretString> {
    texts.iter().map(|text| SecretString::from((*text).to_owned())).collect()
}

#[test]
fn meta_is_believed_over_the_bytes_it_sent_and_no_others() {
    const SIGNATURE: &str = "sha256=ae9079f2964a6fca2df550909414663b7581713947746f740e41714594917950";
    assert_eq!(ESCAPED.len(), 546);
    let ours = secrets(&[SECRET]);
    assert_eq!(meta_hook::verify(&ours, Some(SIGNATURE), ESCAPED.as_bytes()), Ok(()));
    let parsed: Value = serde_json::from_str(ESCAPED).unwrap();
    let again = serde_json::to_vec(&parsed).unwrap();
    assert_eq!(meta_hook::verify(&ours, Some(SIGNATURE), &again), Err(SignatureError::Mismatch));
    assert_eq!(
        meta_hook::verify(&secrets(&["new", SECRET]), Some(SIGNATURE), ESCAPED.as_bytes()),
        Ok(()),
        "either secret during a rotation"
    );
    assert_eq!(meta_hook::verify(&secrets(&["new"]), Some(SIGNATURE), ESCAPED.as_bytes()), Err(SignatureError::Mismatch));
    assert_eq!(meta_hook::verify(&[], Some(SIGNATURE), ESCAPED.as_bytes()), Err(SignatureError::Mismatch));
    assert_eq!(meta_hook::verify(&ours, None, ESCAPED.as_bytes()), Err(SignatureError::Missing));
    for malformed in ["", "sha256=", "sha1=00", "sha256=zz", &SIGNATURE[7..], &SIGNATURE[..70]] {
        assert!(meta_hook::verify(&ours, Some(malformed), ESCAPED.as_bytes()).is_err(), "{malformed}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_flipped_bit_breaks_both_signatures(raw in proptest::collection::vec(any::<u8>(), 1..300), at_byte in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let mut broken = raw.clone();
        broken[at_byte.index(raw.len())] ^= 1_u8 << bit;
        let timestamp = NOW.to_string();
        let signature = signed(&timestamp, &raw);
        let verify = |raw: &[u8]| telnyx_hook::verify(&key().1, Some(&signature), Some(&timestamp), raw, at(NOW));
        prop_assert_eq!(verify(&raw), Ok(()));
        prop_assert_eq!(verify(&broken), Err(SignatureError::Mismatch));
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(&raw);
        let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
        prop_assert_eq!(meta_hook::verify(&secrets(&[SECRET]), Some(&signature), &raw), Ok(()));
        prop_assert_eq!(meta_hook::verify(&secrets(&[SECRET]), Some(&signature), &broken), Err(SignatureError::Mismatch));
    }

    #[test]
    fn no_bytes_make_a_parser_panic(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = telnyx_hook::parse(&raw);
        let _ = meta_hook::parse(&raw);
    }

    #[test]
    fn a_body_cut_anywhere_is_an_error_and_no_panic(length in 0..ESCAPED.len()) {
        prop_assert!(meta_hook::parse(&ESCAPED.as_bytes()[..length]).is_err());
    }
}

#[test]
fn the_handshake_answers_only_who_knows_the_token() {
    let expected = SecretString::from("verify-me");
    let shake = |mode, token| meta_hook::handshake(mode, token, Some("1158201444"), &expected);
    assert_eq!(shake(Some("subscribe"), Some("verify-me")), Some("1158201444"));
    for (mode, token) in [
        (Some("subscribe"), Some("verify-m")),
        (Some("subscribe"), None),
        (Some("unsubscribe"), Some("verify-me")),
        (None, Some("verify-me")),
    ] {
        assert_eq!(shake(mode, token), None);
    }
}

fn telnyx_event(event_type: &str, payload: Value) -> providers::TelnyxEvent {
    let body = json!({"data": {"record_type": "event", "event_type": event_type, "id": "e-1", "occurred_at": "2026-11-20T10:05:00.521992Z", "payload": payload},
        "meta": {"attempt": 2, "delivered_to": "https://hooks.example.net"}});
    telnyx_hook::parse(body.to_string().as_bytes()).expect("an event")
}

#[test]
fn a_call_is_read_from_its_first_ring_to_its_cost() {
    let event = telnyx_event(
        "call.initiated",
        json!({"call_control_id": "v3:abc", "call_leg_id": "leg", "call_session_id": "session", "client_state": null, "from": "+18005550100",
            "to": "+212520000042", "direction": "incoming", "state": "parked", "tags": ["x"]}),
    );
    assert_eq!((event.attempt, event.occurred_at.map(|time| time.timestamp_subsec_micros())), (Some(2), Some(521_992)));
    let TelnyxNews::CallInitiated(call) = event.news() else { panic!("{event:?}") };
    assert!(call.is_incoming() && call.client_state.is_none() && call.to.as_deref() == Some("+212520000042"));

    let heard = |data: Value| {
        telnyx_event("call.transcription", json!({"call_leg_id": "leg", "client_state": "cnVuLTE=", "transcription_data": data}))
            .news()
    };
    let TelnyxNews::Transcription(words) = heard(json!({"transcript": "quatre sept un", "is_final": true, "confidence": "0.91"}))
    else {
        panic!()
    };
    assert_eq!(
        (words.transcript.as_str(), words.is_final, words.confidence, words.call.client_state.as_deref()),
        ("quatre sept un", Some(true), Some(0.91), Some("run-1"))
    );
    let TelnyxNews::Transcription(words) = heard(json!({"transcript": "0 9 2", "confidence": null})) else { panic!() };
    assert_eq!((words.is_final, words.confidence), (None, None));
    assert!(!format!("{words:?}").contains("0 9 2"), "what was heard may be a code");

    let TelnyxNews::Hangup { cause, .. } =
        telnyx_event("call.hangup", json!({"call_leg_id": "leg", "hangup_cause": "normal_clearing"})).news()
    else {
        panic!()
    };
    assert_eq!(cause, "normal_clearing");
    let saved = telnyx_event(
        "call.recording.saved",
        json!({"call_leg_id": "leg", "recording_urls": {"mp3": "https://a"}, "public_recording_urls": {}, "recording_id": "r"}),
    );
    let TelnyxNews::RecordingSaved(saved) = saved.news() else { panic!() };
    assert_eq!((saved.urls.best(), saved.recording_id.as_deref()), (Some("https://a"), Some("r")));
    let cost = telnyx_event(
        "call.cost",
        json!({"call_leg_id": "leg", "total_cost": "0.0042", "billed_duration_secs": 60, "cost_parts": [{"currency": "USD"}]}),
    );
    let TelnyxNews::CallCost(cost) = cost.news() else { panic!() };
    assert_eq!((cost.total_micros, cost.billed_s, cost.currency.as_deref()), (Some(4_200), Some(60), Some("USD")));
}

#[test]
fn a_text_names_its_sender_whoever_it_is() {
    let event = telnyx_event(
        "message.received",
        json!({"id": "m", "from": {"phone_number": "Meta", "carrier": null}, "to": [{"phone_number": "+212520000042", "status": "webhook_delivered"}],
            "text": "471-092 est votre code", "media": [], "sent_at": null}),
    );
    let TelnyxNews::Message(message) = event.news() else { panic!() };
    assert_eq!(
        (message.from.as_str(), message.to.as_slice(), message.text.as_str()),
        ("Meta", &["+212520000042".to_owned()][..], "471-092 est votre code")
    );
    for printed in [format!("{event:?}"), format!("{message:?}"), format!("{:?}", event.news())] {
        assert!(!printed.contains("471"), "{printed}");
    }
}

#[test]
fn an_orders_status_decides_not_its_events_name() {
    for (name, status) in
        [("number_order.complete", "success"), ("number_order.complete", "failure"), ("number_order.something", "cancelled")]
    {
        let event = telnyx_event(
            name,
            json!({"id": "o", "status": status, "customer_reference": "ref-1", "requirements_met": true, "phone_numbers": null}),
        );
        let TelnyxNews::Order(order) = event.news() else { panic!() };
        assert_eq!((order.status, order.customer_reference.as_deref()), (OrderStatus::from(status), Some("ref-1")));
    }
}

#[test]
fn unknown_telnyx_news_is_kept_and_other_formats_are_read() {
    let event = telnyx_event("call.sang", json!({"note": "la"}));
    assert_eq!((event.news(), &event.payload["note"]), (TelnyxNews::Unknown, &json!("la")));
    assert_eq!(telnyx_event("call.transcription", json!({"transcription_data": null})).news(), TelnyxNews::Unknown);
    assert_eq!(telnyx_event("message.received", Value::Null).news(), TelnyxNews::Unknown);
    let v1 = json!({"record_type": "event", "event_type": "call_hangup", "id": "e", "created_at": "2026-11-20T10:05:00+00:00", "payload": {"a": 1}});
    assert!(telnyx_hook::parse_value(v1).is_ok_and(|event| event.occurred_at.is_some()));
    for nonsense in [json!(null), json!([]), json!({}), json!({"data": {"event_type": "x"}}), json!({"data": {"id": "x"}})] {
        assert!(telnyx_hook::parse_value(nonsense.clone()).is_err(), "{nonsense}");
    }
    let stored = serde_json::to_string(&event).unwrap();
    assert_eq!(serde_json::from_str::<providers::TelnyxEvent>(&stored).unwrap(), event);
}

fn meta_events(field: &str, value: Value) -> Vec<providers::MetaEvent> {
    let body = json!({"object": "whatsapp_business_account", "entry": [{"id": 401122334455667_i64, "time": 1795168800, "changes": [{"field": field, "value": value}]}]});
    meta_hook::parse(body.to_string().as_bytes()).expect("a webhook")
}

fn meta_news(field: &str, value: Value) -> MetaNews {
    let mut events = meta_events(field, value);
    assert_eq!(events.len(), 1);
    events.remove(0).news()
}

#[test]
fn the_published_body_is_read_with_its_accents() {
    let events = meta_hook::parse(ESCAPED.as_bytes()).unwrap();
    assert_eq!(
        (events.len(), events[0].account.as_str(), events[0].phone_number_id().as_deref()),
        (1, "401122334455667", Some("512233445566778"))
    );
    let MetaNews::Message(message) = events[0].news() else { panic!() };
    assert_eq!(message.content, Content::Text("Prêt pour l’entretien — نعم".to_owned()));
    assert_eq!((message.from.as_deref(), message.from_user_id.as_deref()), (Some("212600000101"), Some("MA.48201937465520193")));
    assert_eq!(message.contact.as_ref().and_then(|contact| contact.name.as_deref()), Some("Yassine"));
    assert!(message.opens_window());
    assert!(!format!("{message:?} {:?}", events[0]).contains("entretien"));
}

#[test]
fn a_batch_becomes_single_events_each_with_its_own_person() {
    let text = |id: &str, user: &str| json!({"id": id, "from_user_id": user, "timestamp": "1795168800", "type": "text", "text": {"body": id}});
    let value = json!({"metadata": {"display_phone_number": "212520000042", "phone_number_id": "512"},
        "contacts": [{"profile": {"name": "Second"}, "user_id": "MA.2"}, {"profile": {"name": "First"}, "user_id": "MA.1"}],
        "messages": [text("wamid.1", "MA.1"), text("wamid.2", "MA.2")],
        "statuses": [{"id": "wamid.OUT", "status": "read", "timestamp": "1795168801", "recipient_user_id": "MA.2"}]});
    let events = meta_events("messages", value);
    assert_eq!(
        events.iter().map(|event| event.key()).collect::<Vec<_>>(),
        ["message:wamid.1", "message:wamid.2", "status:wamid.OUT:read:MA.2"]
    );
    let names: Vec<_> = events
        .iter()
        .map(|event| match event.news() {
            MetaNews::Message(message) => message.contact.and_then(|contact| contact.name),
            MetaNews::Status(status) => status.contact.and_then(|contact| contact.name),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, [Some("First".to_owned()), Some("Second".to_owned()), Some("Second".to_owned())]);
    assert!(events.iter().all(|event| event.phone_number_id().as_deref() == Some("512")));
    let stored = serde_json::to_string(&events).unwrap();
    assert_eq!(serde_json::from_str::<Vec<providers::MetaEvent>>(&stored).unwrap(), events);
}

fn inbound(kind: &str, content: Value) -> (Content, bool) {
    let mut message = json!({"id": "wamid.1", "from_user_id": "MA.1", "timestamp": 1795168800, "type": kind});
    message[kind] = content;
    let MetaNews::Message(message) =
        meta_news("messages", json!({"metadata": {"phone_number_id": "512"}, "messages": [message]}))
    else {
        panic!()
    };
    let opens = message.opens_window();
    (message.content, opens)
}

#[test]
fn every_type_of_message_is_read() {
    let (media, _) = inbound("audio", json!({"id": "77", "mime_type": "audio/ogg", "sha256": "x=", "voice": true}));
    assert!(matches!(media, Content::Media(media) if media.id == "77" && media.voice));
    assert_eq!(
        inbound("button", json!({"payload": "cand|ok", "text": "Je confirme"})).0,
        Content::Button { payload: "cand|ok".to_owned(), text: "Je confirme".to_owned() }
    );
    let reply = json!({"type": "list_reply", "list_reply": {"id": "a", "title": "A", "description": "d"}});
    assert_eq!(inbound("interactive", reply).0, Content::Interactive(Reply::List { id: "a".to_owned(), title: "A".to_owned() }));
    let flow = json!({"type": "nfm_reply", "nfm_reply": {"name": "flow", "body": "Sent", "response_json": "{\"age\":30}"}});
    assert_eq!(
        inbound("interactive", flow).0,
        Content::Interactive(Reply::Flow { name: "flow".to_owned(), response: json!({"age": 30}) })
    );
    let taken_back = inbound("reaction", json!({"message_id": "wamid.0"}));
    assert_eq!(taken_back, (Content::Reaction { message_id: "wamid.0".to_owned(), emoji: None }, false));
    let (shared, _) = inbound(
        "contacts",
        json!([{"name": {}, "origin": "contact_request", "phones": [{"phone": "+212 600", "wa_id": "212600000101"}]}]),
    );
    assert!(matches!(shared, Content::Contacts { phone: Some(phone), .. } if phone == "212600000101"));
    let (system, opens) = inbound("system", json!({"type": "user_changed_user_id", "user_id": "MA.9", "body": "changed"}));
    assert!(matches!(system, Content::System(notice) if notice.user_id.as_deref() == Some("MA.9")) && !opens);
    assert!(matches!(inbound("location", json!({"latitude": 33.5, "longitude": -7.6})).0, Content::Location { .. }));
    assert!(matches!(inbound("hologram", json!({"x": 1})), (Content::Other(_), true)));
    assert!(matches!(inbound("image", json!(null)).0, Content::Other(_)), "a known type of an unexpected shape is kept");
    let body = json!({"messages": [{"id": "wamid.1", "from_user_id": "MA.1", "timestamp": "1795168800", "type": "unsupported", "errors": [{"code": "131051", "title": "?"}]}]});
    assert!(
        matches!(meta_news("messages", body), MetaNews::Message(message) if matches!(&message.content, Content::Unsupported(errors) if errors[0].code == 131051))
    );
}

#[test]
fn a_status_tells_attempt_price_and_error() {
    let delivered = meta_news(
        "messages",
        json!({"metadata": {"phone_number_id": "512"}, "contacts": [{"profile": {"name": "S"}, "wa_id": "212600000101", "user_id": "MA.7"}],
            "statuses": [{"id": "wamid.OUT1", "status": "delivered", "timestamp": "1795169002", "recipient_id": "212600000101", "recipient_user_id": "MA.7",
                "biz_opaque_callback_data": "ob_1", "pricing": {"billable": true, "pricing_model": "PMP", "type": "regular", "category": "utility"}}]}),
    );
    let MetaNews::Status(status) = delivered else { panic!() };
    assert_eq!((status.status.rank(), status.attempt.as_deref()), (Some(2), Some("ob_1")));
    assert_eq!(status.pricing.and_then(|pricing| pricing.category).as_deref(), Some("utility"));
    let failed = json!({"statuses": [{"id": "wamid.OUT3", "status": "failed", "timestamp": "1795169100", "recipient_id": "212600000102",
        "errors": [{"code": 131047, "title": "Re-engagement message", "error_data": {"details": "More than 24 hours"}}]}]});
    let MetaNews::Status(status) = meta_news("messages", failed) else { panic!() };
    assert_eq!(
        (&status.status, status.errors[0].code, status.errors[0].details.as_deref()),
        (&Status::Failed, 131047, Some("More than 24 hours"))
    );
    let errors = json!({"metadata": {"phone_number_id": "512"}, "errors": [{"code": 131031, "title": "Locked"}]});
    assert!(matches!(meta_news("messages", errors), MetaNews::Errors(errors) if errors[0].code == 131031));
}

#[test]
fn news_of_templates_is_read() {
    let template = |more: Value| {
        let mut value = json!({"message_template_id": 1689000000000001_i64, "message_template_name": "entretien", "message_template_language": "en-US"});
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        value
    };
    let rejected = template(
        json!({"event": "REJECTED", "message_template_category": "UTILITY", "reason": "INVALID_FORMAT", "rejection_info": {"recommendation": "Shorten"}}),
    );
    let MetaNews::Template(change) = meta_news("message_template_status_update", rejected.clone()) else { panic!() };
    assert_eq!(
        (change.id.as_str(), change.language.as_str(), &change.event),
        ("1689000000000001", "en_US", &TemplateStatus::Rejected)
    );
    assert_eq!((change.reason.as_deref(), change.recommendation.as_deref()), (Some("INVALID_FORMAT"), Some("Shorten")));
    assert_eq!(meta_events("message_template_status_update", rejected)[0].key(), "template:1689000000000001:REJECTED:1795168800");
    let paused = template(json!({"event": "PAUSED", "reason": null, "other_info": {"title": "FIRST_PAUSE"}}));
    assert!(
        matches!(meta_news("message_template_status_update", paused), MetaNews::Template(change) if change.pause.as_deref() == Some("FIRST_PAUSE"))
    );
    let impending =
        template(json!({"new_category": "UTILITY", "correct_category": "MARKETING", "category_update_timestamp": 1795219200}));
    assert!(matches!(meta_news("template_category_update", impending), MetaNews::TemplateRecategorised(change)
        if change.correct == Some(TemplateCategory::Marketing) && change.previous.is_none() && change.at.is_some()));
    let quality = template(json!({"previous_quality_score": "GREEN", "new_quality_score": "YELLOW"}));
    assert!(matches!(meta_news("message_template_quality_update", quality), MetaNews::TemplateQuality(_)));
    assert!(matches!(meta_news("message_template_components_update", template(json!({}))), MetaNews::TemplateComponents(_)));
}

#[test]
fn news_of_numbers_accounts_and_people_is_read() {
    let name = json!({"display_phone_number": "+212 520-000042", "decision": "APPROVED", "requested_verified_name": "Atlas", "rejection_reason": null});
    assert!(
        matches!(meta_news("phone_number_name_update", name), MetaNews::NumberName(name) if name.display_phone_number == "212520000042" && name.rejection_reason.is_none())
    );
    let upgrade =
        json!({"display_phone_number": "212520000042", "event": "THROUGHPUT_UPGRADE", "current_limit": "TIER_UNLIMITED"});
    assert!(
        matches!(meta_news("phone_number_quality_update", upgrade), MetaNews::NumberQuality(news) if news.event == "THROUGHPUT_UPGRADE")
    );
    let limits = json!({"max_daily_conversations_per_business": 2000, "max_phone_numbers_per_business": 20});
    assert!(matches!(meta_news("business_capability_update", limits), MetaNews::Capability(limits)
        if limits.messaging_limit.as_deref() == Some("2000") && limits.max_numbers_per_business == Some(20)));
    assert!(
        matches!(meta_news("account_update", json!({"event": "ACCOUNT_RESTRICTION", "restriction_info": []})), MetaNews::AccountUpdate { event } if event == "ACCOUNT_RESTRICTION")
    );
    let alert = json!({"entity_type": "BUSINESS", "entity_id": 7, "alert_info": {"alert_severity": "CRITICAL", "alert_type": "X", "alert_description": "d"}});
    assert!(
        matches!(meta_news("account_alerts", alert), MetaNews::AccountAlert(alert) if alert.entity_id == "7" && alert.severity == "CRITICAL")
    );
    let wishes = json!({"metadata": {"phone_number_id": "512"}, "contacts": [{"wa_id": "1", "user_id": "MA.1"}],
        "user_preferences": [{"wa_id": "1", "user_id": "MA.1", "category": "marketing_messages", "value": "stop", "timestamp": 1795168800},
            {"user_id": "MA.2", "category": "marketing_messages", "value": "resume", "timestamp": 1795168801}]});
    let events = meta_events("user_preferences", wishes);
    let values: Vec<_> = events
        .iter()
        .map(|event| match event.news() {
            MetaNews::Preference(wish) => wish.value,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(values, ["stop", "resume"]);
    assert_ne!(events[0].key(), events[1].key());
    let renamed = json!({"user_id_update": [{"wa_id": "1", "user_id": {"previous": "MA.1", "current": "MA.9"}, "detail": "x", "timestamp": "1795168800"}]});
    assert!(
        matches!(meta_news("user_id_update", renamed), MetaNews::UserId(update) if update.previous == "MA.1" && update.current == "MA.9")
    );
}

#[test]
fn unknown_and_odd_meta_news_is_kept_and_never_an_error() {
    for (field, value) in [
        ("flows", json!({"a": 1})),
        ("messages", json!({})),
        ("messages", Value::Null),
        ("account_update", json!([])),
        ("", json!("x")),
    ] {
        let events = meta_events(field, value.clone());
        assert_eq!((events[0].news(), &events[0].value), (MetaNews::Unknown, &value), "{field}");
        assert_eq!(events[0].key(), meta_events(field, value)[0].key(), "the same every time");
    }
    assert_eq!(meta_hook::parse(br#"{"object":"whatsapp_business_account"}"#).unwrap(), []);
    assert_eq!(meta_hook::parse(br#"{"object":"whatsapp_business_account","entry":[null,{"changes":[]}]}"#).unwrap(), []);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for bad in ["", "null", "[]", r#"{"object":"page","entry":[]}"#, deep.as_str()] {
        assert!(meta_hook::parse(bad.as_bytes()).is_err());
    }
}
