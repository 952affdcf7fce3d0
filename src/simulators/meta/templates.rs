//! Templates: written, reviewed, edited, paused, deleted (contracts/meta-cloud-api.md 6).

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use std::collections::BTreeSet;

use super::{answer, missing, page, select, success, unknown, waba};
use crate::{
    faults::Scene,
    wire::{Call, Operation, Outcome, Refusal},
    world::World,
};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "meta.template_create", method: "POST", path: "{waba}/message_templates", act: create },
    Operation { name: "meta.templates", method: "GET", path: "{waba}/message_templates", act: list },
    Operation { name: "meta.template_delete", method: "DELETE", path: "{waba}/message_templates", act: delete },
    Operation { name: "meta.template_unpause", method: "POST", path: "{template}/unpause", act: unpause },
    Operation { name: "meta.template", method: "GET", path: "{template}", act: show },
    Operation { name: "meta.template_edit", method: "POST", path: "{template}", act: edit },
];

/// Creations per account and hour, templates per account.
const PER_HOUR: usize = 100;
const COUNT_MAX: usize = 6_000;
/// Edits of an approved template.
const EDITS_PER_DAY: usize = 1;
const EDITS_PER_MONTH: usize = 10;
/// The name of a deleted approved template stays locked.
const NAME_LOCKED: TimeDelta = TimeDelta::days(30);

/// One template in one language.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) language: String,
    pub(crate) category: String,
    pub(crate) status: &'static str,
    reason: String,
    quality: String,
    pub(crate) named: bool,
    pub(crate) components: Vec<Value>,
    created: DateTime<Utc>,
    edits: Vec<DateTime<Utc>>,
}

impl Template {
    fn json(&self) -> Value {
        json!({"id": self.id, "name": self.name, "language": self.language, "status": self.status, "category": self.category,
            "components": self.components, "parameter_format": if self.named { "NAMED" } else { "POSITIONAL" },
            "rejected_reason": self.reason, "quality_score": {"score": self.quality}})
    }

    /// Distinct variables of a component's text.
    pub(super) fn variables(&self, kind: &str) -> BTreeSet<String> {
        let text = self.components.iter().find(|part| part["type"].as_str().is_some_and(|t| t.eq_ignore_ascii_case(kind)));
        text.and_then(|part| part["text"].as_str()).map(variables).unwrap_or_default()
    }
}

/// The names between `{{` and `}}`.
fn variables(text: &str) -> BTreeSet<String> {
    text.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")).map(|(name, _)| name.trim().to_owned()).collect()
}

fn wrong(subcode: u32, why: &str) -> Refusal {
    Refusal::new(400, 100, why).subcode(subcode)
}

fn check_components(call: &Call) -> Result<Vec<Value>, Refusal> {
    let parts = call.input["components"].as_array().cloned().ok_or_else(|| missing("components"))?;
    let mut has_body = false;
    for part in &parts {
        let kind = part["type"].as_str().unwrap_or_default().to_uppercase();
        let text = part["text"].as_str().unwrap_or_default();
        let length = text.chars().count();
        match kind.as_str() {
            "HEADER" if length > 60 || variables(text).len() > 1 => return Err(wrong(2_388_047, "The header is not valid.")),
            "BODY" => {
                has_body = true;
                if length > 1024 {
                    return Err(wrong(2_388_040, "The body is too long."));
                }
                let trimmed = text.trim();
                if trimmed.starts_with("{{") || trimmed.ends_with("}}") {
                    return Err(wrong(2_388_299, "Variables cannot open or close the text."));
                }
                let examples = ["body_text", "body_text_named_params"].iter().any(|name| part["example"][name].is_array());
                if !variables(text).is_empty() && !examples {
                    return Err(wrong(2_388_072, "Every variable of the body needs an example."));
                }
            }
            "FOOTER" if length > 60 || text.contains("{{") => return Err(wrong(2_388_073, "The footer is not valid.")),
            "BUTTONS" if part["buttons"].as_array().is_none_or(|all| all.is_empty() || all.len() > 10) => {
                return Err(wrong(2_388_072, "A template has one to ten buttons."));
            }
            "HEADER" | "FOOTER" | "BUTTONS" | "CAROUSEL" | "LIMITED_TIME_OFFER" => {}
            _ => return Err(Refusal::new(400, 100, "A component's type is unknown.")),
        }
    }
    if has_body { Ok(parts) } else { Err(wrong(2_388_072, "A template has a body.")) }
}

fn create(world: &mut World, call: &Call) -> Outcome {
    waba(world, call)?;
    let name = call.need("name", missing)?.to_owned();
    let language = call.need("language", missing)?.to_owned();
    let category = call.need("category", missing)?.to_uppercase();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.len() > 512 || !name.bytes().all(plain) {
        return Err(Refusal::new(400, 100, "A template's name has lower-case letters, digits and underscores."));
    }
    if !["MARKETING", "UTILITY", "AUTHENTICATION"].contains(&category.as_str()) {
        return Err(Refusal::new(400, 100, "category is unknown."));
    }
    let components = if category == "AUTHENTICATION" {
        call.input["components"].as_array().cloned().unwrap_or_default()
    } else {
        check_components(call)?
    };
    let now = world.now;
    let templates = &world.meta.templates;
    if templates.values().any(|known| known.name == name && known.language == language) {
        return Err(wrong(2_388_024, "There is a template of this name in this language already."));
    }
    if world.meta.locked_names.get(&name).is_some_and(|until| *until > now) {
        return Err(wrong(2_388_023, "The previous template of this name is still being deleted."));
    }
    if templates.len() >= COUNT_MAX {
        return Err(wrong(2_388_019, "The account has its full number of templates."));
    }
    world.meta.template_calls.retain(|at| now - *at < TimeDelta::hours(1));
    if world.meta.template_calls.len() >= PER_HOUR {
        return Err(Refusal::new(400, 80_008, "There have been too many template calls to this account."));
    }
    world.meta.template_calls.push(now);
    let id = world.digits(16);
    let named = call.text("parameter_format").is_some_and(|format| format.eq_ignore_ascii_case("NAMED"));
    let template = Template {
        id: id.clone(),
        name,
        language,
        category: category.clone(),
        status: "PENDING",
        reason: "NONE".into(),
        quality: "UNKNOWN".into(),
        named,
        components,
        created: now,
        edits: Vec::new(),
    };
    world.meta.templates.insert(id.clone(), template);
    review(world, &id);
    answer(&json!({"id": id, "status": "PENDING", "category": category}))
}

fn review(world: &mut World, id: &str) {
    let (id, delay) = (id.to_owned(), world.config.delays.template_review_ms);
    world.after("template review", delay, move |world| {
        let Some(template) = world.meta.templates.get(&id).filter(|template| template.status == "PENDING") else { return };
        let about = [id.clone(), template.name.clone()];
        let reason = world.faults.scene(&about, |scene| match scene {
            Scene::TemplateRejected { reason } => Some(reason.clone()),
            _ => None,
        });
        match reason {
            Some(reason) => decide(world, &id, "REJECTED", &reason),
            None => decide(world, &id, "APPROVED", "NONE"),
        }
    });
}

/// A template's new status, told by webhook: APPROVED, REJECTED, PAUSED, DISABLED, FLAGGED, REINSTATED ...
pub(crate) fn decide(world: &mut World, id: &str, event: &str, reason: &str) {
    let Some(template) = world.meta.templates.get_mut(id) else { return };
    template.status = match event {
        "APPROVED" | "REINSTATED" | "FLAGGED" => "APPROVED",
        "REJECTED" => "REJECTED",
        "PAUSED" => "PAUSED",
        "DISABLED" => "DISABLED",
        "PENDING_DELETION" => "PENDING_DELETION",
        _ => template.status,
    };
    template.reason = if event == "REJECTED" { reason.to_owned() } else { "NONE".into() };
    let mut value = told(template);
    value["event"] = json!(event);
    value["reason"] = json!(template.reason);
    value["message_template_category"] = json!(template.category);
    match event {
        "REJECTED" => value["rejection_info"] = json!({"reason": "The text does not fit.", "recommendation": "Change the text."}),
        "PAUSED" => value["other_info"] = json!({"title": "FIRST_PAUSE", "description": "Paused for three hours."}),
        "DISABLED" => value["disable_info"] = json!({"disable_date": world.now.timestamp()}),
        _ => {}
    }
    world.meta_change("", "message_template_status_update", value);
}

/// A template's new quality, told by webhook.
pub(crate) fn rate(world: &mut World, id: &str, quality: &str) {
    let Some(template) = world.meta.templates.get_mut(id) else { return };
    let previous = std::mem::replace(&mut template.quality, quality.to_owned());
    let mut value = told(template);
    value["previous_quality_score"] = json!(previous);
    value["new_quality_score"] = json!(quality);
    world.meta_change("", "message_template_quality_update", value);
}

/// A template's new category, told by webhook.
pub(crate) fn recategorise(world: &mut World, id: &str, category: &str) {
    let Some(template) = world.meta.templates.get_mut(id) else { return };
    let previous = std::mem::replace(&mut template.category, category.to_owned());
    let mut value = told(template);
    value["previous_category"] = json!(previous);
    value["new_category"] = json!(category);
    world.meta_change("", "template_category_update", value);
}

/// What every template webhook says; the id is a number here.
fn told(template: &Template) -> Value {
    json!({"message_template_id": template.id.parse::<u64>().unwrap_or(0), "message_template_name": template.name,
        "message_template_language": template.language})
}

const DEFAULTS: [&str; 6] = ["name", "parameter_format", "components", "language", "status", "category"];

fn list(world: &mut World, call: &Call) -> Outcome {
    waba(world, call)?;
    let same = |field: &str, value: &str| call.text(field).is_none_or(|wanted| value.eq_ignore_ascii_case(wanted));
    let fits = |template: &&Template| {
        same("name", &template.name)
            && same("language", &template.language)
            && same("status", template.status)
            && same("category", &template.category)
            && same("quality_score", &template.quality)
            && call.text("name_or_content").is_none_or(|text| template.json().to_string().contains(text))
    };
    let mut found: Vec<&Template> = world.meta.templates.values().filter(fits).collect();
    found.sort_by_key(|template| std::cmp::Reverse(template.created));
    let found = found.into_iter().map(|template| select(call, &template.json(), &DEFAULTS)).collect();
    answer(&page(call, found))
}

fn show(world: &mut World, call: &Call) -> Outcome {
    let template = world.meta.templates.get(call.arg(0)).ok_or_else(|| unknown(call.arg(0)))?;
    answer(&select(call, &template.json(), &DEFAULTS))
}

fn edit(world: &mut World, call: &Call) -> Outcome {
    let now = world.now;
    let components = check_components(call)?;
    let template = world.meta.templates.get_mut(call.arg(0)).ok_or_else(|| unknown(call.arg(0)))?;
    let within = |length: TimeDelta| template.edits.iter().filter(|at| now - **at < length).count();
    let spent = within(TimeDelta::days(1)) >= EDITS_PER_DAY || within(TimeDelta::days(30)) >= EDITS_PER_MONTH;
    let allowed = match template.status {
        "APPROVED" => !spent && call.text("category").is_none_or(|category| category == template.category),
        "REJECTED" | "PAUSED" => true,
        _ => false,
    };
    if !allowed {
        return Err(wrong(2_388_039, "This template cannot be edited now."));
    }
    if template.status == "APPROVED" {
        template.edits.push(now);
    }
    template.components = components;
    template.status = "PENDING";
    if let Some(category) = call.text("category") {
        template.category = category.to_uppercase();
    }
    review(world, call.arg(0));
    success()
}

fn delete(world: &mut World, call: &Call) -> Outcome {
    waba(world, call)?;
    let ids: Option<Vec<String>> = call.text("hsm_ids").and_then(|list| serde_json::from_str(list).ok());
    let doomed: Vec<String> = match (call.text("hsm_id"), ids) {
        (Some(id), _) => vec![id.to_owned()],
        (None, Some(ids)) => ids,
        (None, None) => {
            let name = call.need("name", missing)?;
            world.meta.templates.values().filter(|known| known.name == name).map(|known| known.id.clone()).collect()
        }
    };
    let deletable = |id: &String| world.meta.templates.get(id).is_some_and(|template| template.status != "DISABLED");
    if doomed.is_empty() || !doomed.iter().all(deletable) {
        return Err(Refusal::new(400, 100, "No such template to delete.").subcode(2_593_002));
    }
    for id in doomed {
        if let Some(template) = world.meta.templates.remove(&id)
            && template.status == "APPROVED"
        {
            world.meta.locked_names.insert(template.name, world.now + NAME_LOCKED);
        }
    }
    success()
}

fn unpause(world: &mut World, call: &Call) -> Outcome {
    let template = world.meta.templates.get(call.arg(0)).ok_or_else(|| unknown(call.arg(0)))?;
    if template.status != "PAUSED" {
        return Err(Refusal::new(400, 100, "The template is not paused."));
    }
    decide(world, call.arg(0), "REINSTATED", "NONE");
    success()
}
