//! Every type of message that the Cloud API knows and we send, good and bad (contracts/meta-cloud-api.md 7).

use super::{Delivery, parse, render};
use serde_json::{Value, json};

fn whole(kind: &str, object: &Value) -> Value {
    json!({ "to": "+212600000101", "type": kind, kind: object })
}

#[test]
fn what_meta_takes_is_taken_and_sent_as_it_is() {
    let vcard = json!({ "name": { "formatted_name": "Salma B.", "first_name": "Salma" }, "phones": [{ "phone": "+212600000101", "type": "CELL" }] });
    let good = [
        ("text", json!({ "body": "Bonjour" })),
        ("text", json!({ "body": "é".repeat(4_096), "preview_url": true })),
        ("image", json!({ "id": "1", "caption": "x".repeat(1_024) })),
        ("image", json!({ "link": "https://atlas.example/photo.jpg" })),
        ("video", json!({ "link": "http://atlas.example/film.mp4", "caption": "Le film" })),
        ("audio", json!({ "id": "1", "voice": true })),
        ("document", json!({ "id": "1", "caption": "Votre contrat", "filename": "contrat.pdf" })),
        ("sticker", json!({ "id": "1" })),
        ("location", json!({ "latitude": 33.57, "longitude": -7.59, "name": "Agence", "address": "12 rue Tarik" })),
        ("location", json!({ "latitude": "33.57", "longitude": "-7.59" })),
        ("contacts", json!([vcard])),
        ("contacts", json!([vcard, vcard, vcard, vcard, vcard])),
        ("reaction", json!({ "message_id": "wamid.IN", "emoji": "👍🏽" })),
        ("reaction", json!({ "message_id": "wamid.IN", "emoji": "" })),
        ("interactive", button(1, 20)),
        ("interactive", button(3, 1)),
        ("interactive", list(1, 10)),
        ("interactive", list(10, 1)),
        ("interactive", cta("https://atlas.example/offre")),
        ("interactive", flow(json!({ "flow_id": "1", "flow_action": "navigate", "flow_action_payload": { "screen": "A" } }))),
        ("interactive", flow(json!({ "flow_name": "dossier", "mode": "draft", "flow_token": "t" }))),
        (
            "interactive",
            json!({ "type": "location_request_message", "body": { "text": "Où ?" }, "action": { "name": "send_location" } }),
        ),
        (
            "interactive",
            json!({ "type": "request_contact_info", "body": { "text": "Qui ?" }, "action": { "name": "request_contact_info" } }),
        ),
    ];
    for (kind, object) in good {
        let draft = parse(&whole(kind, &object)).unwrap_or_else(|problems| panic!("{kind} {object}: {problems:?}"));
        let body = render(&draft, "attempt", None);
        assert_eq!((&body["type"], &body[kind], &body["to"]), (&json!(kind), &object, &json!("+212600000101")));
        assert_eq!((&body["messaging_product"], &body["biz_opaque_callback_data"]), (&json!("whatsapp"), &json!("attempt")));
    }
}

#[test]
fn what_meta_would_refuse_is_refused_before_it_is_queued() {
    let x = |count: usize| "x".repeat(count);
    let bad = [
        ("text", json!({}), "text.body", "required"),
        ("text", json!({ "body": "" }), "text.body", "required"),
        ("text", json!({ "body": 7 }), "text.body", "wrong_type"),
        ("text", json!({ "body": x(4_097) }), "text.body", "too_long"),
        ("text", json!({ "body": "x", "preview_url": "yes" }), "text.preview_url", "wrong_type"),
        ("text", json!("x"), "text", "wrong_type"),
        ("text", Value::Null, "text", "required"),
        ("image", json!({}), "image", "required"),
        ("image", json!({ "id": "1", "caption": x(1_025) }), "image.caption", "too_long"),
        ("image", json!({ "id": "1", "filename": "x.png" }), "image.filename", "unknown_field"),
        ("video", json!({ "link": "file:///etc/passwd" }), "video.link", "invalid_url"),
        ("audio", json!({ "id": "1", "caption": "x" }), "audio.caption", "unknown_field"),
        ("document", json!({ "link": "https://a b" }), "document.link", "invalid_url"),
        ("sticker", json!({ "id": "1", "caption": "x" }), "sticker.caption", "unknown_field"),
        ("location", json!({ "latitude": 33.57 }), "location.longitude", "wrong_value"),
        ("location", json!({ "latitude": "NaN", "longitude": 0 }), "location.latitude", "wrong_value"),
        ("contacts", json!([{}]), "contacts[0].name", "required"),
        ("contacts", json!([{ "name": { "first_name": "x" } }]), "contacts[0].name.formatted_name", "required"),
        ("contacts", json!({}), "contacts", "wrong_type"),
        ("contacts", json!(vec![json!({ "name": { "formatted_name": "x" } }); 6]), "contacts", "wrong_count"),
        ("reaction", json!({ "emoji": "👍" }), "reaction.message_id", "required"),
        ("reaction", json!({ "message_id": "wamid.IN" }), "reaction.emoji", "required"),
        ("reaction", json!({ "message_id": "wamid.IN", "emoji": "ok" }), "reaction.emoji", "wrong_value"),
        ("interactive", json!({ "type": "button" }), "interactive.body", "required"),
        ("interactive", json!({ "type": "poll", "body": { "text": "x" }, "action": {} }), "interactive.type", "unknown_type"),
        ("interactive", button(4, 1), "interactive.action.buttons", "wrong_count"),
        ("interactive", button(1, 21), "interactive.action.buttons[0].reply.title", "too_long"),
        ("interactive", list(11, 1), "interactive.action.sections", "wrong_count"),
        ("interactive", list(2, 6), "interactive.action.sections", "wrong_count"),
        ("interactive", cta("atlas.example"), "interactive.action.parameters.url", "invalid_url"),
        ("interactive", flow(json!({})), "interactive.action.parameters", "required"),
        (
            "interactive",
            flow(json!({ "flow_id": "1", "flow_action": "jump" })),
            "interactive.action.parameters.flow_action",
            "wrong_value",
        ),
        ("template", json!({ "language": "fr" }), "template.name", "required"),
        ("template", json!({ "name": "n" }), "template.language", "required"),
        ("template", json!({ "name": "n", "language": "fr", "variables": 7 }), "template.variables", "wrong_type"),
        ("template", json!({ "name": "n", "language": "fr", "components": [] }), "template.components", "unknown_field"),
        ("telegram", json!({}), "type", "unknown_type"),
    ];
    for (kind, object, component, code) in bad {
        let found = parse(&whole(kind, &object)).expect_err(&format!("{kind} {object}"));
        assert!(found.iter().any(|p| (p.component.as_str(), p.code) == (component, code)), "{kind} {object}: {found:?}");
    }
    let mut long = button(1, 1);
    for (field, text) in [("body", x(1_025)), ("footer", x(61)), ("header", x(61))] {
        long[field] = json!({ "type": "text", "text": text });
    }
    let found = parse(&whole("interactive", &long)).expect_err("too long everywhere");
    let at: Vec<&str> = found.iter().map(|problem| problem.component.as_str()).collect();
    assert_eq!(at, ["interactive.body.text", "interactive.footer.text", "interactive.header.text"]);
}

#[test]
fn whom_a_message_is_for_is_one_phone_or_user_id() {
    let to = |address: Value| {
        let mut message = json!({ "type": "text", "text": { "body": "x" } });
        message.as_object_mut().expect("an object").extend(address.as_object().expect("an object").clone());
        parse(&message).map(|draft| render(&draft, "a", None)).map_err(|problems| problems[0].code)
    };
    assert_eq!(to(json!({ "to": "+212600000101" })).map(|body| body["to"].clone()), Ok(json!("+212600000101")));
    assert_eq!(
        to(json!({ "recipient": "MA.48201937465520193" })).map(|body| body["recipient"].clone()),
        Ok(json!("MA.48201937465520193"))
    );
    for (address, code) in [
        (json!({}), "required"),
        (json!({ "to": null }), "required"),
        (json!({ "to": "0600000101" }), "invalid_recipient"),
        (json!({ "to": "212600000101" }), "invalid_recipient"),
        (json!({ "to": "+1" }), "invalid_recipient"),
        (json!({ "to": "somebody" }), "invalid_recipient"),
        (json!({ "to": ["+212600000101"] }), "wrong_type"),
        (json!({ "recipient": "bsuid_1" }), "invalid_recipient"),
        (json!({ "recipient": "MA." }), "invalid_recipient"),
    ] {
        assert_eq!(to(address.clone()), Err(code), "{address}");
    }
}

#[test]
fn a_read_mark_names_a_message_and_may_show_typing() {
    let mark = |read: Value| parse(&json!({ "type": "read", "read": read }));
    let typing = mark(json!({ "message_id": "wamid.IN", "typing": true })).expect("a read mark");
    assert_eq!(typing.delivery, Delivery::AtLeastOnce);
    assert_eq!(render(&typing, "a", None)["typing_indicator"], json!({ "type": "text" }));
    assert!(mark(json!({})).is_err() && mark(json!({ "message_id": "wamid.IN", "typing": "yes" })).is_err());
}

fn button(count: usize, title: usize) -> Value {
    let buttons: Vec<Value> = (0..count)
        .map(|id| json!({ "type": "reply", "reply": { "id": format!("b{id}"), "title": "x".repeat(title) } }))
        .collect();
    json!({ "type": "button", "body": { "text": "Lundi à 10 h ?" }, "action": { "buttons": buttons } })
}

fn list(sections: usize, rows: usize) -> Value {
    let row = |section: usize, row: usize| json!({ "id": format!("{section}.{row}"), "title": "Créneau", "description": "x".repeat(72) });
    let section = |number: usize| json!({ "title": format!("Jour {number}"), "rows": (0..rows).map(|r| row(number, r)).collect::<Vec<_>>() });
    json!({ "type": "list", "body": { "text": "Choisissez" }, "action": { "button": "Choisir", "sections": (0..sections).map(section).collect::<Vec<_>>() } })
}

fn cta(url: &str) -> Value {
    json!({ "type": "cta_url", "body": { "text": "Une offre" }, "header": { "type": "image", "image": { "id": "1" } },
        "action": { "name": "cta_url", "parameters": { "display_text": "Voir l'offre", "url": url } } })
}

fn flow(more: Value) -> Value {
    let mut parameters = json!({ "flow_message_version": "3", "flow_cta": "Postuler" });
    parameters.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    json!({ "type": "flow", "body": { "text": "Votre dossier" }, "action": { "name": "flow", "parameters": parameters } })
}
