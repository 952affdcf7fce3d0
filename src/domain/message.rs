//! A message: what may be asked for, what Meta is sent, and in `status` how it fares.
//!
//! contracts/meta-cloud-api.md 7.

use crate::{
    Phone,
    identity::Bsuid,
    problem::{Check, Problem, join},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

mod status;
#[cfg(test)]
mod table;

pub use status::{
    FREE_ENTRY_POINT_MS, History, Status, WINDOW_MARGIN_MS, WINDOW_MS, free_entry_point_until_ms, may_send, opens_window,
    window_until_ms,
};

/// Characters of a text, an interactive body, a caption (contracts/meta-cloud-api.md 7.2, 7.3).
pub const TEXT_MAX: usize = 4096;
const BODY_MAX: usize = 1024;
const CAPTION_MAX: usize = 1024;
const SHORT_MAX: usize = 60;
const BUTTON_TITLE_MAX: usize = 20;
const BUTTON_ID_MAX: usize = 256;
const BUTTONS_MAX: usize = 3;
const LIST_SECTIONS_MAX: usize = 10;
/// Rows of all sections together.
const LIST_ROWS_MAX: usize = 10;
const ROW_ID_MAX: usize = 200;
const ROW_TITLE_MAX: usize = 24;
const ROW_DESCRIPTION_MAX: usize = 72;
const FLOW_CTA_MAX: usize = 30;
const CONTACTS_MAX: usize = 5;
const URL_MAX: usize = 2_000;
/// Our own bounds on what Meta leaves open.
const NAME_MAX: usize = 1_000;
const ID_MAX: usize = 512;
const EMOJI_MAX: usize = 16;
const VARIABLES_MAX: usize = 100;

/// The Cloud API's message types, and the read mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    Template,
    Text,
    Image,
    Video,
    Audio,
    Document,
    Sticker,
    Location,
    Contacts,
    Reaction,
    Interactive,
    /// Marks an inbound message as read, perhaps showing that we type.
    Read,
}

impl Type {
    const ALL: [Self; 12] = [
        Self::Template,
        Self::Text,
        Self::Image,
        Self::Video,
        Self::Audio,
        Self::Document,
        Self::Sticker,
        Self::Location,
        Self::Contacts,
        Self::Reaction,
        Self::Interactive,
        Self::Read,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Text => "text",
            Self::Image => "image",
            Self::Video => "video",
            Self::Audio => "audio",
            Self::Document => "document",
            Self::Sticker => "sticker",
            Self::Location => "location",
            Self::Contacts => "contacts",
            Self::Reaction => "reaction",
            Self::Interactive => "interactive",
            Self::Read => "read",
        }
    }

    pub fn read(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Refused by Meta (131047) unless the user wrote within 24 hours.
    pub fn needs_open_window(self) -> bool {
        !matches!(self, Self::Template | Self::Read)
    }

    /// What happens when an answer is lost and no webhook settles it (spec.md 4).
    pub fn default_delivery(self) -> Delivery {
        match self {
            // Doing these twice is doing them once.
            Self::Reaction | Self::Read => Delivery::AtLeastOnce,
            _ => Delivery::AtMostOnce,
        }
    }

    /// A read mark is a call, but no message: it has no wamid, no status and no price.
    pub fn is_billable(self) -> bool {
        self != Self::Read
    }
}

/// After an unclear outcome: park for a person, or try once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    AtMostOnce,
    AtLeastOnce,
}

/// To whom: a phone, a BSUID, or both; Meta takes the phone if it has both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    pub phone: Option<Phone>,
    pub bsuid: Option<Bsuid>,
}

/// A checked request: what the queue keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Draft {
    /// None only for a read mark.
    pub recipient: Option<Recipient>,
    #[serde(rename = "type")]
    pub kind: Type,
    /// The Cloud API object named by the type (`{"body":"…"}` of a text). Of a template: `{"name","language","variables"}`,
    /// filled by `template::Template::fill` when it is sent. Of a read mark: `{"message_id","typing"}`.
    pub content: Value,
    /// The wamid that is quoted.
    pub reply_to: Option<String>,
    pub delivery: Delivery,
}

/// Checks a request. Reads `to`, `recipient`, `type`, `context`, `delivery` and the object named by the type; every other
/// field (`line_id`, `not_before` …) is the caller's. Finds all that is wrong, not only the first.
pub fn parse(request: &Value) -> Result<Draft, Vec<Problem>> {
    let mut check = Check::default();
    let Some(fields) = check.object(Some(request), "message") else { return check.done(None) };

    let kind = match fields.get("type").and_then(Value::as_str) {
        // Meta's own form of the read mark.
        None if fields.get("status").and_then(Value::as_str) == Some("read") => Some(Type::Read),
        None => {
            check.add("type", "required", "type is missing");
            None
        }
        Some(name) => {
            let kind = Type::read(name);
            if kind.is_none() {
                check.add("type", "unknown_type", format!("{name:?} is not a message type"));
            }
            kind
        }
    };
    let recipient = if kind == Some(Type::Read) { None } else { recipient(fields, &mut check) };
    let reply_to = match fields.get("context") {
        None | Some(Value::Null) => None,
        context => {
            let context = check.object(context, "context");
            context.and_then(|context| check.text(context, "context", "message_id", ID_MAX)).map(str::to_owned)
        }
    };
    let delivery = match fields.get("delivery") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let delivery = Delivery::deserialize(value).ok();
            if delivery.is_none() {
                check.add("delivery", "wrong_value", "delivery is at_most_once or at_least_once");
            }
            delivery
        }
    };
    let content = kind.and_then(|kind| content(kind, fields, &mut check));
    let draft = kind.zip(content).map(|(kind, content)| Draft {
        recipient,
        kind,
        content,
        reply_to,
        delivery: delivery.unwrap_or(kind.default_delivery()),
    });
    check.done(draft)
}

/// The Cloud API body of a checked draft. `attempt` comes back in every status webhook (`biz_opaque_callback_data`).
/// `template` is the filled `template` object, and is used only for templates.
pub fn render(draft: &Draft, attempt: &str, template: Option<&Value>) -> Value {
    if draft.kind == Type::Read {
        let mut body = json!({"messaging_product": "whatsapp", "status": "read", "message_id": draft.content["message_id"]});
        if draft.content["typing"] == true {
            body["typing_indicator"] = json!({"type": "text"});
        }
        return body;
    }
    let name = draft.kind.name();
    let mut body = json!({
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "type": name,
        "biz_opaque_callback_data": attempt,
    });
    body[name] = template.filter(|_| draft.kind == Type::Template).unwrap_or(&draft.content).clone();
    if let Some(recipient) = &draft.recipient {
        // One address only: with both, the answer would speak of the phone alone.
        match recipient {
            Recipient { phone: Some(phone), .. } => body["to"] = json!(phone),
            Recipient { bsuid, .. } => body["recipient"] = json!(bsuid),
        }
    }
    if let Some(wamid) = &draft.reply_to {
        body["context"] = json!({"message_id": wamid});
    }
    body
}

fn recipient(fields: &Map<String, Value>, check: &mut Check) -> Option<Recipient> {
    let mut read = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.as_str()),
        Some(_) => {
            check.add(name, "wrong_type", format!("{name} must be a string"));
            None
        }
    };
    let (to, user) = (read("to"), read("recipient"));
    let mut found = Recipient { phone: None, bsuid: None };
    if let Some(text) = to {
        match text.parse() {
            Ok(phone) => found.phone = Some(phone),
            Err(error) => check.add("to", "invalid_recipient", error.to_string()),
        }
    }
    if let Some(text) = user {
        match text.parse() {
            Ok(bsuid) => found.bsuid = Some(bsuid),
            Err(error) => check.add("recipient", "invalid_recipient", error.to_string()),
        }
    }
    let given = |name: &str| fields.get(name).is_some_and(|value| !value.is_null());
    if !given("to") && !given("recipient") {
        check.add("to", "required", "to (a phone) or recipient (a BSUID) is missing");
    }
    (found.phone.is_some() || found.bsuid.is_some()).then_some(found)
}

fn content(kind: Type, fields: &Map<String, Value>, check: &mut Check) -> Option<Value> {
    let path = kind.name();
    if kind == Type::Contacts {
        let people = check.array(fields.get(path), path, 1, CONTACTS_MAX);
        for (index, person) in people.iter().enumerate() {
            let at = format!("contacts[{index}]");
            let name = check.object(Some(person), &at).map(|person| person.get("name"));
            let name = name.and_then(|name| check.object(name, &join(&at, "name")));
            if let Some(name) = name {
                check.text(name, &join(&at, "name"), "formatted_name", NAME_MAX);
            }
        }
        return fields.get(path).cloned();
    }
    // Meta's form of the read mark has its fields at the top.
    let meta_read = kind == Type::Read && !fields.contains_key(path);
    let object = if meta_read { fields } else { check.object(fields.get(path), path)? };
    match kind {
        Type::Text => {
            check.only(object, path, &["body", "preview_url"]);
            check.text(object, path, "body", TEXT_MAX);
            flag(object, path, "preview_url", check);
        }
        Type::Image | Type::Video => media(object, path, &["caption"], check),
        Type::Document => media(object, path, &["caption", "filename"], check),
        Type::Audio => media(object, path, &["voice"], check),
        Type::Sticker => media(object, path, &[], check),
        Type::Location => {
            check.only(object, path, &["latitude", "longitude", "name", "address"]);
            degrees(object, path, "latitude", 90.0, check);
            degrees(object, path, "longitude", 180.0, check);
            check.optional_text(object, path, "name", NAME_MAX);
            check.optional_text(object, path, "address", NAME_MAX);
        }
        Type::Reaction => {
            check.only(object, path, &["message_id", "emoji"]);
            check.text(object, path, "message_id", ID_MAX);
            match object.get("emoji") {
                Some(Value::String(emoji)) if is_emoji(emoji) => {}
                Some(Value::String(_)) => check.add("reaction.emoji", "wrong_value", "reaction.emoji is one emoji"),
                _ => check.add("reaction.emoji", "required", "reaction.emoji is one emoji, or empty to take it back"),
            }
        }
        Type::Interactive => interactive(object, check),
        Type::Template => {
            check.only(object, path, &["name", "language", "variables"]);
            check.text(object, path, "name", ID_MAX);
            let language = match object.get("language") {
                // Meta's own form.
                Some(Value::Object(language)) => check.text(language, "template.language", "code", SHORT_MAX),
                _ => check.text(object, path, "language", SHORT_MAX),
            };
            let count = match object.get("variables") {
                None | Some(Value::Null) => 0,
                Some(Value::Array(values)) => values.len(),
                Some(Value::Object(values)) => values.len(),
                Some(_) => {
                    check.add("template.variables", "wrong_type", "template.variables is an object or an array");
                    0
                }
            };
            if count > VARIABLES_MAX {
                check.add("template.variables", "wrong_count", format!("more than {VARIABLES_MAX} variables"));
            }
            let language = language.map(|l| l.replace('-', "_"));
            return Some(json!({"name": object.get("name"), "language": language, "variables": object.get("variables")}));
        }
        Type::Read => {
            let wamid = check.text(object, if meta_read { "" } else { path }, "message_id", ID_MAX)?;
            flag(object, path, "typing", check);
            let typing = object.get("typing") == Some(&Value::Bool(true)) || fields.contains_key("typing_indicator");
            return Some(json!({"message_id": wamid, "typing": typing}));
        }
        Type::Contacts => {}
    }
    Some(Value::Object(object.clone()))
}

/// Roughly; empty takes a reaction back. Keycaps begin with a digit, and no emoji holds a letter of a script.
fn is_emoji(text: &str) -> bool {
    let beyond_scripts = |c: char| c >= '\u{203c}';
    let fits = |c: char| beyond_scripts(c) || c.is_ascii_digit() || matches!(c, '#' | '*' | '\u{a9}' | '\u{ae}' | '\u{200d}');
    text.is_empty() || text.chars().count() <= EMOJI_MAX && text.chars().all(fits) && !text.is_ascii()
}

fn media(object: &Map<String, Value>, path: &str, more: &[&str], check: &mut Check) {
    let known: Vec<&str> = ["id", "link"].iter().chain(more).copied().collect();
    check.only(object, path, &known);
    match (object.contains_key("id"), object.contains_key("link")) {
        (true, false) => {
            check.text(object, path, "id", ID_MAX);
        }
        (false, true) => url(object, path, "link", check),
        _ => check.add(path, "required", format!("{path} has either an id or a link")),
    }
    check.optional_text(object, path, "caption", CAPTION_MAX);
    check.optional_text(object, path, "filename", NAME_MAX);
    flag(object, path, "voice", check);
}

fn interactive(object: &Map<String, Value>, check: &mut Check) {
    let path = "interactive";
    check.only(object, path, &["type", "header", "body", "footer", "action"]);
    let kind = check.text(object, path, "type", SHORT_MAX).unwrap_or_default();
    let body_needed = !matches!(kind, "flow");
    if body_needed || object.contains_key("body") {
        part(object, "body", if kind == "list" { TEXT_MAX } else { BODY_MAX }, check);
    }
    if object.contains_key("footer") {
        part(object, "footer", SHORT_MAX, check);
    }
    if let Some(Value::Object(header)) = object.get("header") {
        let at = "interactive.header";
        match check.text(header, at, "type", SHORT_MAX) {
            Some("text") => {
                check.text(header, at, "text", SHORT_MAX);
            }
            Some(name @ ("image" | "video" | "document")) if kind != "list" => {
                let at = join(at, name);
                if let Some(file) = check.object(header.get(name), &at) {
                    media(file, &at, if name == "document" { &["filename"] } else { &[] }, check);
                }
            }
            Some(name) => check.add("interactive.header.type", "wrong_value", format!("{name:?} is no header of a {kind}")),
            None => {}
        }
    } else if object.contains_key("header") {
        check.add("interactive.header", "wrong_type", "interactive.header must be an object");
    }
    let at = "interactive.action";
    let Some(action) = check.object(object.get("action"), at) else { return };
    match kind {
        "button" => buttons(action, check),
        "list" => list(action, check),
        "cta_url" => {
            fixed(action, "cta_url", check);
            let at = "interactive.action.parameters";
            if let Some(parameters) = check.object(action.get("parameters"), at) {
                check.text(parameters, at, "display_text", BUTTON_TITLE_MAX);
                url(parameters, at, "url", check);
            }
        }
        "flow" => {
            fixed(action, "flow", check);
            let at = "interactive.action.parameters";
            let Some(parameters) = check.object(action.get("parameters"), at) else { return };
            check.text(parameters, at, "flow_message_version", SHORT_MAX);
            check.text(parameters, at, "flow_cta", FLOW_CTA_MAX);
            if parameters.contains_key("flow_id") == parameters.contains_key("flow_name") {
                check.add(at, "required", "a flow is named by flow_id or by flow_name");
            }
            if !matches!(parameters.get("flow_action").map(Value::as_str), None | Some(Some("navigate" | "data_exchange"))) {
                check.add(join(at, "flow_action"), "wrong_value", "flow_action is navigate or data_exchange");
            }
        }
        "location_request_message" => fixed(action, "send_location", check),
        "request_contact_info" => fixed(action, "request_contact_info", check),
        "" => {}
        other => check.add("interactive.type", "unknown_type", format!("{other:?} is not an interactive type that we send")),
    }
}

fn part(object: &Map<String, Value>, name: &str, most: usize, check: &mut Check) {
    let at = join("interactive", name);
    if let Some(part) = check.object(object.get(name), &at) {
        check.text(part, &at, "text", most);
    }
}

fn fixed(action: &Map<String, Value>, name: &str, check: &mut Check) {
    if action.get("name").and_then(Value::as_str) != Some(name) {
        check.add("interactive.action.name", "wrong_value", format!("interactive.action.name is {name:?} here"));
    }
}

fn buttons(action: &Map<String, Value>, check: &mut Check) {
    let mut ids = Vec::new();
    let buttons = check.array(action.get("buttons"), "interactive.action.buttons", 1, BUTTONS_MAX);
    for (index, button) in buttons.iter().enumerate() {
        let at = format!("interactive.action.buttons[{index}].reply");
        if button.get("type").and_then(Value::as_str) != Some("reply") {
            check.add(format!("interactive.action.buttons[{index}].type"), "wrong_value", "a button's type is reply");
        }
        if let Some(reply) = check.object(button.get("reply"), &at) {
            ids.extend(check.text(reply, &at, "id", BUTTON_ID_MAX));
            check.text(reply, &at, "title", BUTTON_TITLE_MAX);
        }
    }
    unique(ids, "interactive.action.buttons", check);
}

fn list(action: &Map<String, Value>, check: &mut Check) {
    let at = "interactive.action";
    check.text(action, at, "button", BUTTON_TITLE_MAX);
    let sections = check.array(action.get("sections"), "interactive.action.sections", 1, LIST_SECTIONS_MAX);
    let mut ids = Vec::new();
    let mut count = 0;
    for (index, section) in sections.iter().enumerate() {
        let at = format!("interactive.action.sections[{index}]");
        let Some(section) = check.object(Some(section), &at) else { continue };
        if sections.len() > 1 {
            check.text(section, &at, "title", ROW_TITLE_MAX);
        } else {
            check.optional_text(section, &at, "title", ROW_TITLE_MAX);
        }
        let rows = check.array(section.get("rows"), &join(&at, "rows"), 1, usize::MAX);
        count += rows.len();
        for (index, row) in rows.iter().enumerate() {
            let at = format!("{at}.rows[{index}]");
            if let Some(row) = check.object(Some(row), &at) {
                ids.extend(check.text(row, &at, "id", ROW_ID_MAX));
                check.text(row, &at, "title", ROW_TITLE_MAX);
                check.optional_text(row, &at, "description", ROW_DESCRIPTION_MAX);
            }
        }
    }
    if count > LIST_ROWS_MAX {
        check.add("interactive.action.sections", "wrong_count", format!("{count} rows together, of {LIST_ROWS_MAX} allowed"));
    }
    unique(ids, "interactive.action.sections", check);
}

fn unique(mut ids: Vec<&str>, at: &str, check: &mut Check) {
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() < count {
        check.add(at, "duplicate", "two ids are the same");
    }
}

fn flag(object: &Map<String, Value>, path: &str, name: &str, check: &mut Check) {
    if !matches!(object.get(name), None | Some(Value::Null | Value::Bool(_))) {
        let at = join(path, name);
        check.add(&at, "wrong_type", format!("{at} is true or false"));
    }
}

fn url(object: &Map<String, Value>, path: &str, name: &str, check: &mut Check) {
    if let Some(text) = check.text(object, path, name, URL_MAX)
        && !((text.starts_with("https://") || text.starts_with("http://")) && !text.contains(char::is_whitespace))
    {
        let at = join(path, name);
        check.add(&at, "invalid_url", format!("{at} is no http(s) address"));
    }
}

fn degrees(object: &Map<String, Value>, path: &str, name: &str, most: f64, check: &mut Check) {
    let value = match object.get(name) {
        Some(Value::String(text)) => text.parse().ok(),
        value => value.and_then(Value::as_f64),
    };
    if !value.is_some_and(|degrees: f64| degrees.abs() <= most) {
        let at = join(path, name);
        check.add(&at, "wrong_value", format!("{at} is between -{most} and {most}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn to(mut message: Value) -> Value {
        message["to"] = json!("+212600000101");
        message
    }

    fn problems(request: Value) -> Vec<(String, &'static str)> {
        parse(&to(request)).unwrap_err().into_iter().map(|p| (p.component, p.code)).collect()
    }

    #[test]
    fn what_is_wrong_is_named_all_at_once() {
        let wrong =
            parse(&json!({"to": "0600000101", "recipient": 7, "type": "text", "text": {"body": " "}, "delivery": "twice"}));
        let mut codes: Vec<_> = wrong.unwrap_err().into_iter().map(|p| (p.component, p.code)).collect();
        codes.sort();
        let expected =
            [("delivery", "wrong_value"), ("recipient", "wrong_type"), ("text.body", "required"), ("to", "invalid_recipient")];
        assert_eq!(codes, expected.map(|(c, p)| (c.to_owned(), p)));
        assert_eq!(parse(&json!([])).unwrap_err()[0].code, "wrong_type");
        assert_eq!(parse(&json!({"type": "text", "text": {"body": "x"}})).unwrap_err()[0].code, "required");
        assert_eq!(problems(json!({"type": "telegram"})), [("type".into(), "unknown_type")]);
        assert_eq!(problems(json!({"type": "text", "text": {"body": "x".repeat(4097)}})), [("text.body".into(), "too_long")]);
        assert_eq!(
            problems(json!({"type": "text", "text": {"body": "x", "boddy": 1}})),
            [("text.boddy".into(), "unknown_field")]
        );
        assert_eq!(problems(json!({"type": "image", "image": {"id": "1", "link": "https://x"}})), [("image".into(), "required")]);
        assert_eq!(problems(json!({"type": "image", "image": {"link": "ftp://x"}})), [("image.link".into(), "invalid_url")]);
        assert_eq!(
            problems(json!({"type": "location", "location": {"latitude": 91, "longitude": 0}})),
            [("location.latitude".into(), "wrong_value")]
        );
        assert_eq!(problems(json!({"type": "contacts", "contacts": []})), [("contacts".into(), "wrong_count")]);
    }

    #[test]
    fn interactive_limits_are_metas() {
        let button = |id: &str, title: &str| json!({"type": "reply", "reply": {"id": id, "title": title}});
        let message = |buttons: Vec<Value>| json!({"type": "interactive", "interactive": {"type": "button", "body": {"text": "Demain ?"}, "action": {"buttons": buttons}}});
        assert!(parse(&to(message(vec![button("a", "Oui"), button("b", "Non")]))).is_ok());
        assert_eq!(problems(message(vec![])), [("interactive.action.buttons".into(), "wrong_count")]);
        assert_eq!(
            problems(message(vec![button("a", "x"), button("a", "y")])),
            [("interactive.action.buttons".into(), "duplicate")]
        );
        assert_eq!(
            problems(message(vec![button("a", &"x".repeat(21))])),
            [("interactive.action.buttons[0].reply.title".into(), "too_long")]
        );
        let rows = |n: usize| (0..n).map(|i| json!({"id": i.to_string(), "title": "r"})).collect::<Vec<_>>();
        let list = |n| {
            json!({"type": "interactive", "interactive": {"type": "list", "body": {"text": "Choix"}, "action": {"button": "Voir",
                "sections": [{"title": "A", "rows": rows(n)}]}}})
        };
        assert!(parse(&to(list(10))).is_ok());
        assert_eq!(problems(list(11)), [("interactive.action.sections".into(), "wrong_count")]);
        let cta = json!({"type": "interactive", "interactive": {"type": "cta_url", "body": {"text": "Offre"},
            "action": {"name": "cta_url", "parameters": {"display_text": "Ouvrir", "url": "https://atlas.example/o"}}}});
        assert!(parse(&to(cta)).is_ok());
        let flow = json!({"type": "interactive", "interactive": {"type": "flow", "body": {"text": "Dossier"},
            "action": {"name": "flow", "parameters": {"flow_message_version": "3", "flow_id": "1", "flow_name": "x", "flow_cta": "Go"}}}});
        assert_eq!(problems(flow), [("interactive.action.parameters".into(), "required")]);
    }

    #[test]
    fn a_draft_renders_as_the_cloud_api_wants_it() {
        let request = json!({"line_id": "x", "to": "+212 600 000 101", "recipient": "MA.9", "type": "text",
            "text": {"body": "Bonjour"}, "context": {"message_id": "wamid.IN"}});
        let draft = parse(&request).unwrap();
        assert_eq!(draft.delivery, Delivery::AtMostOnce);
        assert_eq!(
            render(&draft, "m.1", None),
            json!({"messaging_product": "whatsapp", "recipient_type": "individual", "to": "+212600000101", "type": "text",
                "text": {"body": "Bonjour"}, "context": {"message_id": "wamid.IN"}, "biz_opaque_callback_data": "m.1"})
        );
        let hidden =
            parse(&json!({"recipient": "MA.9", "type": "reaction", "reaction": {"message_id": "wamid.IN", "emoji": ""}}))
                .unwrap();
        assert_eq!(hidden.delivery, Delivery::AtLeastOnce);
        let body = render(&hidden, "m.1", None);
        assert_eq!((body["recipient"].as_str(), body.get("to")), (Some("MA.9"), None));
    }

    #[test]
    fn a_template_is_filled_when_it_is_sent() {
        let draft =
            parse(&to(json!({"type": "template", "template": {"name": "hello", "language": "en-US", "variables": ["a"]}})))
                .unwrap();
        assert_eq!(draft.content, json!({"name": "hello", "language": "en_US", "variables": ["a"]}));
        let filled = json!({"name": "t_hello", "language": {"code": "en_US"}, "components": []});
        assert_eq!(render(&draft, "m.1", Some(&filled))["template"], filled);
    }

    #[test]
    fn a_read_mark_has_no_recipient() {
        for request in [
            json!({"type": "read", "read": {"message_id": "wamid.IN", "typing": true}}),
            json!({"status": "read", "message_id": "wamid.IN", "typing_indicator": {"type": "text"}}),
        ] {
            let draft = parse(&request).unwrap();
            assert_eq!(
                render(&draft, "m.1", None),
                json!({"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.IN", "typing_indicator": {"type": "text"}})
            );
        }
    }

    proptest! {
        #[test]
        fn no_json_makes_it_panic(text in r#"[\[\]{}":,a-z0-9 ]{0,60}"#, kind in prop::sample::select(Type::ALL.map(Type::name).to_vec())) {
            let object: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
            let _ = parse(&json!({"to": object.clone(), "type": kind, kind: object}));
        }
    }
}
