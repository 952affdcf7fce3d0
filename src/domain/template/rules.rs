//! Meta's published rules for each component of a template.
//!
//! contracts/meta-cloud-api.md 6.1.

use super::{BODY_MAX, COUPON_MAX, Category, FOOTER_MAX, HEADER_MAX, ParameterFormat, URL_MAX, chars, distinct, scan};
use crate::problem::Check;
use serde_json::{Map, Value};

const BUTTON_TEXT_MAX: usize = 25;
const PHONE_MAX: usize = 20;
/// Buttons together, and of those kinds that are fewer.
const BUTTONS_MAX: usize = 10;
const URL_BUTTONS_MAX: usize = 2;
const PHONE_BUTTONS_MAX: usize = 1;
const COPY_BUTTONS_MAX: usize = 1;
/// A body with x variables has at least 2x + 1 words that are none.
const WORDS_PER_VARIABLE: usize = 2;
const CODE_MINUTES: std::ops::RangeInclusive<i64> = 1..=90;

/// Checks all components; returns them with Meta's enums in upper case.
pub(super) fn components(
    fields: &Map<String, Value>,
    category: Option<Category>,
    format: ParameterFormat,
    check: &mut Check,
) -> Vec<Value> {
    let mut components = check.array(fields.get("components"), "components", 1, 4).to_vec();
    let mut seen = Vec::new();
    for (index, component) in components.iter_mut().enumerate() {
        let Some(kind) = upper(component, "type") else {
            check.add(format!("components[{index}]"), "required", "a component is an object with a type");
            continue;
        };
        if !matches!(kind.as_str(), "HEADER" | "BODY" | "FOOTER" | "BUTTONS") {
            check.add(kind, "unknown_component", "a component is HEADER, BODY, FOOTER or BUTTONS");
            continue;
        }
        if seen.contains(&kind) {
            check.add(&kind, "duplicate_component", format!("there is one {kind} only"));
        }
        if kind == "HEADER" {
            upper(component, "format");
        }
        if let Some(Value::Array(buttons)) = component.get_mut("buttons") {
            for button in buttons {
                upper(button, "type");
                upper(button, "otp_type");
            }
        }
        let authentication = category == Some(Category::Authentication);
        if let Value::Object(component) = &*component {
            match kind.as_str() {
                _ if authentication => authentication_component(&kind, component, check),
                "HEADER" => header(component, format, check),
                "BODY" => body(component, format, check),
                "FOOTER" => footer(component, check),
                _ => buttons(component, check),
            }
        }
        seen.push(kind);
    }
    if !components.is_empty() && !seen.iter().any(|kind| kind == "BODY") {
        check.add("BODY", "required", "a template has a BODY");
    }
    if category == Some(Category::Authentication) && !seen.iter().any(|kind| kind == "BUTTONS") {
        check.add("BUTTONS", "required", "an AUTHENTICATION template has one OTP button");
    }
    components
}

fn header(component: &Map<String, Value>, format: ParameterFormat, check: &mut Check) {
    check.only(component, "HEADER", &["type", "format", "text", "example"]);
    match component.get("format").and_then(Value::as_str) {
        Some("TEXT") => {
            let Some(text) = text_field(component, "HEADER", HEADER_MAX, check) else { return };
            let Some(names) = names(text, "HEADER", format, check) else { return };
            if names.len() > 1 {
                check.add("HEADER", "too_many_variables", "a header has one variable at most");
            }
            let (positional, named) = ("header_text", "header_text_named_params");
            let given = component.get("example").and_then(|example| example.get(positional)).and_then(Value::as_array);
            examples(component, &names, format, named, given, "HEADER", check);
        }
        Some("IMAGE" | "VIDEO" | "DOCUMENT") => {
            let handle = component.get("example").and_then(|example| example["header_handle"][0].as_str());
            if handle.is_none_or(|handle| handle.trim().is_empty()) {
                check.add("HEADER", "missing_example", "a media header needs example.header_handle from an upload");
            }
        }
        Some("LOCATION") => {}
        Some(other) => {
            check.add("HEADER", "invalid_format", format!("{other:?} is not TEXT, IMAGE, VIDEO, DOCUMENT or LOCATION"));
        }
        None => check.add("HEADER", "required", "HEADER.format is missing"),
    }
}

fn body(component: &Map<String, Value>, format: ParameterFormat, check: &mut Check) {
    check.only(component, "BODY", &["type", "text", "example"]);
    let Some(text) = text_field(component, "BODY", BODY_MAX, check) else { return };
    let Some(names) = names(text, "BODY", format, check) else { return };
    let mentions = scan(text).unwrap_or_default();
    let trimmed = text.trim();
    if mentions.first().is_some_and(|_| trimmed.starts_with("{{")) || mentions.last().is_some_and(|_| trimmed.ends_with("}}")) {
        check.add("BODY", "variable_at_edge", "the body must not begin or end with a variable");
    }
    if mentions.windows(2).any(|pair| text[pair[0].range.end..pair[1].range.start].trim().is_empty()) {
        check.add("BODY", "variables_adjacent", "two variables stand side by side with no word between");
    }
    let mut without = text.to_owned();
    for mention in mentions.iter().rev() {
        without.replace_range(mention.range.clone(), " ");
    }
    let words = without.split_whitespace().filter(|word| word.chars().any(char::is_alphanumeric)).count();
    let least = mentions.len() * WORDS_PER_VARIABLE + 1;
    if !mentions.is_empty() && words < least {
        let count = mentions.len();
        check.add("BODY", "too_many_variables", format!("{words} words are too few for {count} variables; at least {least}"));
    }
    let given = component.get("example").and_then(|example| example["body_text"][0].as_array());
    examples(component, &names, format, "body_text_named_params", given, "BODY", check);
}

fn footer(component: &Map<String, Value>, check: &mut Check) {
    check.only(component, "FOOTER", &["type", "text"]);
    if let Some(text) = text_field(component, "FOOTER", FOOTER_MAX, check)
        && scan(text).is_none_or(|mentions| !mentions.is_empty())
    {
        check.add("FOOTER", "variable_not_allowed", "a footer has no variable");
    }
}

fn buttons(component: &Map<String, Value>, check: &mut Check) {
    check.only(component, "BUTTONS", &["type", "buttons"]);
    let buttons = check.array(component.get("buttons"), "BUTTONS", 1, BUTTONS_MAX);
    let mut kinds = Vec::new();
    let mut texts = Vec::new();
    for (index, button) in buttons.iter().enumerate() {
        let at = format!("BUTTONS[{index}]");
        let Some(button) = check.object(Some(button), &at) else { continue };
        let kind = button.get("type").and_then(Value::as_str).unwrap_or_default();
        match kind {
            "QUICK_REPLY" | "FLOW" | "VOICE_CALL" | "CATALOG" | "MPM" | "SPM" => {}
            "URL" => url_button(button, &at, check),
            "PHONE_NUMBER" => {
                check.text(button, &at, "phone_number", PHONE_MAX);
            }
            "COPY_CODE" => {
                let example = button.get("example").map(|example| example.as_str().or_else(|| example[0].as_str()));
                match example {
                    Some(Some(code)) if (1..=COUPON_MAX).contains(&chars(code)) => {}
                    _ => check.add(&at, "missing_example", format!("a COPY_CODE button needs an example of 1 to {COUPON_MAX}")),
                }
            }
            // Their labels are Meta's own.
            "REQUEST_CONTACT_INFO" | "CALL_PERMISSION_REQUEST" | "APP" => {}
            "OTP" => check.add(&at, "not_allowed", "an OTP button belongs to an AUTHENTICATION template"),
            "" => check.add(&at, "required", format!("{at}.type is missing")),
            other => check.add(&at, "unknown_button", format!("{other:?} is not a button type")),
        }
        let labelled = !matches!(kind, "COPY_CODE" | "REQUEST_CONTACT_INFO" | "CALL_PERMISSION_REQUEST" | "APP" | "OTP");
        if let Some(text) = labelled.then(|| check.text(button, &at, "text", BUTTON_TEXT_MAX)).flatten() {
            if text.contains("{{") {
                check.add(&at, "variable_not_allowed", "a button's text has no variable");
            }
            texts.push(text);
        }
        kinds.push(kind);
    }
    let most = [("URL", URL_BUTTONS_MAX), ("PHONE_NUMBER", PHONE_BUTTONS_MAX), ("COPY_CODE", COPY_BUTTONS_MAX)];
    for (kind, most) in most {
        let count = kinds.iter().filter(|k| **k == kind).count();
        if count > most {
            check.add("BUTTONS", "too_many_buttons", format!("{count} {kind} buttons, of {most} allowed"));
        }
    }
    // Quick replies stand together: before all others or after them.
    let changes = kinds.windows(2).filter(|pair| (pair[0] == "QUICK_REPLY") != (pair[1] == "QUICK_REPLY")).count();
    if changes > 1 {
        check.add("BUTTONS", "buttons_not_grouped", "quick replies stand together, not between other buttons");
    }
    let count = texts.len();
    texts.sort_unstable();
    texts.dedup();
    if texts.len() < count {
        check.add("BUTTONS", "duplicate", "two buttons have the same text");
    }
}

fn url_button(button: &Map<String, Value>, at: &str, check: &mut Check) {
    let Some(url) = check.text(button, at, "url", URL_MAX) else { return };
    if !(url.starts_with("https://") || url.starts_with("http://")) {
        check.add(at, "invalid_url", "a URL button's url begins with https:// or http://");
    }
    match scan(url).as_deref() {
        Some([]) => {}
        Some([one]) if one.range.end == url.len() => {
            let example = button.get("example").and_then(|example| example.as_str().or_else(|| example[0].as_str()));
            if example.is_none_or(|example| example.trim().is_empty()) {
                check.add(at, "missing_example", "a url with a variable needs an example");
            }
        }
        _ => check.add(at, "invalid_url", "a url has one variable at most, at its end"),
    }
}

fn authentication_component(kind: &str, component: &Map<String, Value>, check: &mut Check) {
    match kind {
        "BODY" => {
            if component.contains_key("text") {
                check.add("BODY", "not_allowed", "the body of an AUTHENTICATION template is Meta's own; leave text out");
            }
            check.only(component, "BODY", &["type", "text", "add_security_recommendation"]);
            if !matches!(component.get("add_security_recommendation"), None | Some(Value::Bool(_))) {
                check.add("BODY", "wrong_type", "add_security_recommendation is true or false");
            }
        }
        "FOOTER" => {
            check.only(component, "FOOTER", &["type", "code_expiration_minutes"]);
            let minutes = component.get("code_expiration_minutes").and_then(Value::as_i64);
            if minutes.is_none_or(|minutes| !CODE_MINUTES.contains(&minutes)) {
                check.add("FOOTER", "wrong_value", "code_expiration_minutes is 1 to 90");
            }
        }
        "BUTTONS" => {
            let Some(button) = check.array(component.get("buttons"), "BUTTONS", 1, 1).first() else { return };
            let Some(button) = check.object(Some(button), "BUTTONS[0]") else { return };
            if button.get("type").and_then(Value::as_str) != Some("OTP") {
                check.add("BUTTONS[0]", "not_allowed", "an AUTHENTICATION template has one button of type OTP");
                return;
            }
            check.optional_text(button, "BUTTONS[0]", "text", BUTTON_TEXT_MAX);
            match button.get("otp_type").and_then(Value::as_str) {
                Some("COPY_CODE") => {}
                Some("ONE_TAP" | "ZERO_TAP") => {
                    let apps = check.array(button.get("supported_apps"), "BUTTONS[0].supported_apps", 1, 5);
                    for (index, app) in apps.iter().enumerate() {
                        let at = format!("BUTTONS[0].supported_apps[{index}]");
                        if let Some(app) = check.object(Some(app), &at) {
                            check.text(app, &at, "package_name", URL_MAX);
                            check.text(app, &at, "signature_hash", URL_MAX);
                        }
                    }
                }
                _ => check.add("BUTTONS[0]", "wrong_value", "otp_type is COPY_CODE, ONE_TAP or ZERO_TAP"),
            }
        }
        _ => check.add(kind, "not_allowed", "an AUTHENTICATION template has no header"),
    }
}

/// A component's text, its errors named by the component alone.
fn text_field<'a>(component: &'a Map<String, Value>, at: &str, most: usize, check: &mut Check) -> Option<&'a str> {
    match component.get("text") {
        Some(Value::String(text)) if !text.trim().is_empty() => check.within(text, at, most),
        Some(Value::String(_)) | None | Some(Value::Null) => {
            check.add(at, "required", format!("{at}.text is missing"));
            None
        }
        Some(_) => {
            check.add(at, "wrong_type", format!("{at}.text must be a string"));
            None
        }
    }
}

/// The distinct variables of a text, checked against the parameter format.
fn names<'a>(text: &'a str, at: &str, format: ParameterFormat, check: &mut Check) -> Option<Vec<&'a str>> {
    let Some(mentions) = scan(text) else {
        check.add(at, "invalid_variable", "a variable is {{name}} or {{1}}, its braces closed");
        return None;
    };
    let names = distinct(&mentions);
    for (index, name) in names.iter().enumerate() {
        let sound = match format {
            ParameterFormat::Positional => *name == (index + 1).to_string(),
            ParameterFormat::Named => {
                name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
                    && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            }
        };
        if !sound {
            let rule = match format {
                ParameterFormat::Positional => "positions count 1, 2, 3 in order (or set parameter_format to NAMED)",
                ParameterFormat::Named => "names have lower-case letters, digits and underscores",
            };
            check.add(at, "invalid_variable", format!("{{{{{name}}}}}: {rule}"));
            return None;
        }
    }
    Some(names)
}

fn examples(
    component: &Map<String, Value>,
    names: &[&str],
    format: ParameterFormat,
    named_key: &str,
    positional: Option<&Vec<Value>>,
    at: &str,
    check: &mut Check,
) {
    let sound = |example: Option<&Value>| example.and_then(Value::as_str).is_some_and(|text| !text.trim().is_empty());
    for (index, name) in names.iter().enumerate() {
        let found = match format {
            ParameterFormat::Positional => sound(positional.and_then(|examples| examples.get(index))),
            ParameterFormat::Named => {
                let examples = component.get("example").and_then(|example| example.get(named_key)).and_then(Value::as_array);
                let example = examples.into_iter().flatten().find(|example| example["param_name"] == *name);
                sound(example.and_then(|example| example.get("example")))
            }
        };
        if !found {
            check.add(at, "missing_example", format!("{{{{{name}}}}} needs an example"));
        }
    }
}

/// Puts a text field in upper case, as Meta writes its enums; returns it.
fn upper(object: &mut Value, name: &str) -> Option<String> {
    let field = object.as_object_mut()?.get_mut(name)?;
    let text = field.as_str()?.to_ascii_uppercase();
    *field = Value::String(text.clone());
    Some(text)
}
