//! The account: subscriptions, tokens, health, and what a bare id answers (contracts/meta-cloud-api.md 5 and 13).

use serde_json::{Value, json};

use super::{answer, missing, numbers, select, success, waba};
use crate::{
    wire::{Call, Operation, Outcome, Refusal},
    world::World,
};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "meta.subscribe", method: "POST", path: "{waba}/subscribed_apps", act: subscribe },
    Operation { name: "meta.subscriptions", method: "GET", path: "{waba}/subscribed_apps", act: subscriptions },
    Operation { name: "meta.unsubscribe", method: "DELETE", path: "{waba}/subscribed_apps", act: unsubscribe },
    Operation { name: "meta.app_subscribe", method: "POST", path: "{app}/subscriptions", act: app_subscribe },
    Operation { name: "meta.token", method: "GET", path: "oauth/access_token", act: token },
    Operation { name: "meta.token_debug", method: "GET", path: "debug_token", act: debug },
    Operation { name: "meta.account", method: "GET", path: "{waba}", act: show },
    Operation { name: "meta.number", method: "GET", path: "{phone}", act: numbers::show },
    Operation { name: "meta.number_update", method: "POST", path: "{phone}", act: numbers::update },
];

pub(super) fn health(world: &World) -> Value {
    let mut account = json!({"entity_type": "WABA", "id": world.config.meta.waba_id, "can_send_message": "AVAILABLE"});
    if !world.meta.funded || world.meta.restricted {
        account["can_send_message"] = json!("BLOCKED");
        account["errors"] = json!([{"error_code": 141_006, "error_description": "There is a problem with the payment method.",
            "possible_solution": "Add a payment method."}]);
    }
    account
}

fn show(world: &mut World, call: &Call) -> Outcome {
    let account = &world.config.meta;
    let entity = health(world);
    let fields = call.text("fields").unwrap_or_default();
    let analytics = fields.contains("pricing_analytics").then(|| super::prices::analytics(world, call.arg(0), fields));
    let full = json!({
        "id": account.waba_id, "name": "Ligne", "currency": "USD", "timezone_id": "86", "message_template_namespace": "simulated",
        "account_review_status": "APPROVED", "business_verification_status": "verified", "country": "MA",
        "ownership_type": "SELF", "owner_business_info": {"id": account.business_id, "name": "Ligne"},
        "primary_funding_id": world.meta.funded.then_some("7001"), "status": "ACTIVE",
        "pricing_analytics": analytics, "health_status": {"can_send_message": entity["can_send_message"], "entities": [entity]},
    });
    answer(&select(call, &full, &["id", "name", "timezone_id", "message_template_namespace"]))
}

fn subscribe(world: &mut World, call: &Call) -> Outcome {
    waba(world, call)?;
    world.meta.subscribed = true;
    // An empty body clears an override.
    world.meta.waba_callback = call.text("override_callback_uri").map(str::to_owned);
    success()
}

fn subscriptions(world: &mut World, call: &Call) -> Outcome {
    waba(world, call)?;
    let mut app =
        json!({"whatsapp_business_api_data": {"id": world.config.meta.app_id, "name": "Ligne", "link": "https://ligne.example"}});
    if let Some(url) = &world.meta.waba_callback {
        app["override_callback_uri"] = json!(url);
    }
    let apps: Vec<Value> = world.meta.subscribed.then_some(app).into_iter().collect();
    answer(&json!({"data": apps}))
}

fn unsubscribe(world: &mut World, call: &Call) -> Outcome {
    waba(world, call)?;
    world.meta.subscribed = false;
    world.meta.waba_callback = None;
    success()
}

fn app_subscribe(world: &mut World, call: &Call) -> Outcome {
    world.config.hooks.meta = call.need("callback_url", missing)?.to_owned();
    success()
}

fn token(world: &mut World, call: &Call) -> Outcome {
    let account = &world.config.meta;
    if call.text("client_id") != Some(&account.app_id) || call.text("client_secret") != Some(&account.app_secret) {
        return Err(Refusal::new(400, 101, "Error validating client secret."));
    }
    if call.text("grant_type") == Some("client_credentials") {
        let token = format!("{}|{}", account.app_id, account.app_secret);
        return answer(&json!({"access_token": token, "token_type": "bearer"}));
    }
    // Single use, whatever comes of it.
    let until = world.meta.signup_codes.remove(call.need("code", missing)?);
    if until.is_none_or(|until| until < world.now) {
        return Err(Refusal::new(400, 100, "This authorization code has expired or has been used.").subcode(36_009));
    }
    let token = format!("EAAsim{}", world.uuid().replace('-', ""));
    world.meta.tokens.push(token.clone());
    answer(&json!({"access_token": token, "token_type": "bearer"}))
}

fn debug(world: &mut World, call: &Call) -> Outcome {
    let asked = call.need("input_token", missing)?;
    let account = &world.config.meta;
    let valid = asked == account.system_token || world.meta.tokens.iter().any(|token| token == asked);
    let scopes = ["whatsapp_business_management", "whatsapp_business_messaging"];
    let granular = scopes.map(|scope| json!({"scope": scope, "target_ids": [account.waba_id]}));
    answer(&json!({"data": {"app_id": account.app_id, "type": "SYSTEM_USER", "application": "Ligne", "is_valid": valid,
        "expires_at": 0, "issued_at": world.now.timestamp(), "scopes": scopes, "granular_scopes": granular, "user_id": "9001"}}))
}
