//! Templates, messages, people and media.

use crate::service::{Seen, Service};
use serde_json::{Value, json};
use simulators::{HookFault, HookPlan, Profile, Scene, ScenePlan};
use std::{collections::BTreeSet, time::Duration};

/// Every status that webhooks told of messages.
fn statuses(service: &Service) -> Vec<Value> {
    let changes = service.hooks().into_iter().filter(|seen| seen.route == "whatsapp").flat_map(|seen| changes(&seen));
    changes.flat_map(|change| change["value"]["statuses"].as_array().cloned().unwrap_or_default()).collect()
}

fn changes(seen: &Seen) -> Vec<Value> {
    seen.body["entry"].as_array().unwrap().iter().flat_map(|entry| entry["changes"].as_array().unwrap().clone()).collect()
}

fn text(to: &str, body: &str, callback: &str) -> Value {
    json!({"messaging_product": "whatsapp", "to": to, "type": "text", "text": {"body": body}, "biz_opaque_callback_data": callback})
}

fn template(name: &str) -> Value {
    json!({"name": name, "language": "fr", "category": "UTILITY", "parameter_format": "NAMED", "components": [
        {"type": "BODY", "text": "Bonjour {{prenom}}, à demain.", "example": {"body_text_named_params": [{"param_name": "prenom", "example": "Salma"}]}}]})
}

fn filled(name: &str, to: &str, callback: &str) -> Value {
    json!({"messaging_product": "whatsapp", "to": to, "type": "template", "biz_opaque_callback_data": callback, "template":
        {"name": name, "language": {"code": "fr"}, "components": [{"type": "body", "parameters":
            [{"type": "text", "parameter_name": "prenom", "text": "Yassine"}]}]}})
}

async fn approved(service: &Service, name: &str) -> String {
    let (status, made) = service.meta("POST", &format!("{}/message_templates", service.waba()), template(name)).await;
    assert_eq!((status, &made["status"]), (200, &json!("PENDING")), "{made}");
    service.sims.settle().await;
    let id = made["id"].as_str().unwrap().to_owned();
    service.sims.decide_template(&id, "APPROVED", "NONE");
    service.sims.settle().await;
    id
}

#[tokio::test]
async fn a_template_is_reviewed_sent_and_told_to_the_end() {
    let service = Service::open().await;
    let (_, line) = service.live("job-1").await;
    let id = approved(&service, "bonjour").await;
    let told = service
        .hook("an approval", |seen| seen.route == "whatsapp" && changes(seen).iter().any(|c| c["value"]["event"] == "APPROVED"))
        .await;
    let told = changes(&told).into_iter().find(|change| change["value"]["event"] == "APPROVED").unwrap();
    assert_eq!(told["value"]["message_template_id"].as_u64().unwrap().to_string(), id, "a number here, a string there");

    let (status, sent) = service.meta("POST", &format!("{line}/messages"), filled("bonjour", "+212600000101", "attempt-1")).await;
    assert_eq!((status, &sent["messages"][0]["message_status"]), (200, &json!("accepted")), "{sent}");
    assert_eq!(sent["contacts"][0], json!({"input": "+212600000101", "wa_id": "212600000101"}));
    service.sims.settle().await;
    let told = statuses(&service);
    assert!(
        told.iter().all(|status| status["id"] == sent["messages"][0]["id"] && status["biz_opaque_callback_data"] == "attempt-1")
    );
    assert_eq!(told[0]["status"], "sent");
    assert_eq!(told[0]["pricing"], json!({"billable": true, "pricing_model": "PMP", "type": "regular", "category": "utility"}));
    assert!(told.iter().any(|status| status["status"] == "delivered" || status["status"] == "read"));
    assert!(told[0]["recipient_user_id"].as_str().unwrap().starts_with("MA."));
    let books = service.sims.message_books();
    assert_eq!((books.accepted, books.per_callback["attempt-1"], books.cost), (1, 1, 23_000));
    let fields = "pricing_analytics.start(0).end(9999999999).granularity(DAILY).metric_types([\"COST\",\"VOLUME\"])";
    let (_, account) = service.meta("GET", &format!("{}?fields={fields}", service.waba()), Value::Null).await;
    assert_eq!(account["pricing_analytics"]["data"][0]["data_points"][0]["volume"], 1);
}

#[tokio::test]
async fn templates_are_refused_rejected_edited_paused_and_deleted() {
    let service = Service::open().await;
    service.live("job-1").await;
    let path = format!("{}/message_templates", service.waba());
    let mut edge = template("bord");
    edge["components"][0]["text"] = json!("Bonjour {{prenom}}");
    let (status, refused) = service.meta("POST", &path, edge).await;
    assert_eq!((status, &refused["error"]["error_subcode"]), (400, &json!(2_388_299)));
    let rejected = Scene::TemplateRejected { reason: "PROMOTIONAL".into() };
    service.sims.scene(ScenePlan { scene: rejected, times: 1, only: Some("refus".into()) });
    let (_, made) = service.meta("POST", &path, template("refus")).await;
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!(service.meta("POST", &path, template("refus")).await.1["error"]["error_subcode"], 2_388_024);
    service.sims.advance(Duration::from_secs(1));
    let show = async || service.meta("GET", &format!("{id}?fields=status,rejected_reason"), Value::Null).await.1;
    assert_eq!(show().await, json!({"id": id, "status": "REJECTED", "rejected_reason": "PROMOTIONAL"}));
    assert_eq!(service.meta("POST", &id, template("refus")).await.0, 200);
    service.sims.advance(Duration::from_secs(1));
    assert_eq!(show().await["status"], "APPROVED");
    service.sims.decide_template(&id, "PAUSED", "NONE");
    assert_eq!(show().await["status"], "PAUSED");
    assert_eq!(service.meta("POST", &format!("{id}/unpause"), Value::Null).await.0, 200);
    let (_, listed) = service.meta("GET", &format!("{path}?name=refus&fields=name,status"), Value::Null).await;
    assert_eq!(listed["data"], json!([{"id": id, "name": "refus", "status": "APPROVED"}]));
    assert_eq!(service.meta("DELETE", &format!("{path}?name=refus"), Value::Null).await.0, 200);
    assert_eq!(service.meta("POST", &path, template("refus")).await.1["error"]["error_subcode"], 2_388_023);
    service.sims.advance(Duration::from_secs(31 * 86_400));
    assert_eq!(service.meta("POST", &path, template("refus")).await.0, 200);
}

#[tokio::test]
async fn sends_are_checked_in_order() {
    let service = Service::open().await;
    let (phone, line) = service.verified("job-1").await;
    let path = format!("{line}/messages");
    let code = async |body: Value| service.meta("POST", &path, body).await.1["error"]["code"].clone();
    assert_eq!(code(text("+212600000101", "oui", "a")).await, 133_010, "not registered");
    service.register(&line).await;
    service.sims.settle().await;
    approved(&service, "bonjour").await;
    assert_eq!(code(json!({"messaging_product": "whatsapp", "type": "text", "text": {"body": "x"}})).await, 131_008);
    assert_eq!(code(text("MA.48201937", "x", "a")).await, 131_009);
    assert_eq!(code(text(&phone, "x", "a")).await, 131_021);
    assert_eq!(code(text("+212600000101", &"x".repeat(4_097), "a")).await, 131_009);
    assert_eq!(code(json!({"messaging_product": "whatsapp", "to": "+212600000101", "type": "fax"})).await, 131_051);
    assert_eq!(code(filled("inconnu", "+212600000101", "a")).await, 132_001);
    let mut short = filled("bonjour", "+212600000101", "a");
    short["template"]["components"] = json!([]);
    assert_eq!(code(short).await, 132_000);
    let mut positional = filled("bonjour", "+212600000101", "a");
    positional["template"]["components"][0]["parameters"][0] = json!({"type": "text", "text": "Yassine"});
    assert_eq!(code(positional).await, 132_012);
    let bare = service.meta("POST", &path, filled("bonjour", "0600000101", "a")).await.1;
    assert_eq!(bare["contacts"][0]["wa_id"], "2120600000101", "without + our own country code goes in front");
}

#[tokio::test]
async fn outside_the_window_only_templates_arrive() {
    let service = Service::open().await;
    let (phone, line) = service.live("job-1").await;
    let path = format!("{line}/messages");
    let send = async |callback: &str| {
        assert_eq!(service.meta("POST", &path, text("+212600000101", "Bonjour", callback)).await.0, 200);
        service.sims.settle().await;
        statuses(&service).into_iter().filter(|status| status["biz_opaque_callback_data"] == callback).collect::<Vec<_>>()
    };
    let closed = send("closed").await;
    assert_eq!((&closed[0]["status"], &closed[0]["errors"][0]["code"]), (&json!("failed"), &json!(131_047)));
    service.sims.write(&phone, "+212600000101", json!({"type": "text", "text": {"body": "Prêt pour l’entretien, نعم"}})).unwrap();
    let open = send("open").await;
    assert_eq!((&open[0]["status"], &open[0]["pricing"]["type"]), (&json!("sent"), &json!("free_customer_service")));
    service.sims.advance(Duration::from_secs(24 * 3_600 + 1));
    assert_eq!(send("late").await[0]["errors"][0]["code"], 131_047);

    let inbound = service
        .hook("an inbound text", |seen| seen.route == "whatsapp" && changes(seen)[0]["value"]["messages"].is_array())
        .await;
    let raw = String::from_utf8(inbound.raw.to_vec()).unwrap();
    assert!(raw.is_ascii() && raw.contains("Pr\\u00eat") && raw.contains("\\u0646"), "{raw}");
    assert!(service.meta_signed(&inbound, &inbound.raw));
    assert!(!service.meta_signed(&inbound, inbound.body.to_string().as_bytes()), "re-serialised bytes do not fit the signature");
    let message = &changes(&inbound)[0]["value"]["messages"][0];
    assert_eq!(message["from"], "212600000101");
    let read = json!({"messaging_product": "whatsapp", "status": "read", "message_id": message["id"]});
    assert_eq!(service.meta("POST", &path, read).await.1, json!({"success": true}));
    let unknown = json!({"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.NO"});
    assert_eq!(service.meta("POST", &path, unknown).await.1["error"]["code"], 131_009);
}

#[tokio::test]
async fn the_pair_and_the_number_have_their_limits() {
    let service = Service::open().await;
    let (_, line) = service.live("job-1").await;
    approved(&service, "bonjour").await;
    let path = format!("{line}/messages");
    let send = async |to: String| service.meta("POST", &path, filled("bonjour", &to, "x")).await.1["error"]["code"].clone();
    // However long the machine takes for them, they come at once.
    service.sims.hold();
    for _ in 0..45 {
        assert_eq!(send("+212600000101".into()).await, Value::Null);
    }
    assert_eq!(send("+212600000101".into()).await, 131_056);
    service.sims.advance(Duration::from_secs(6));
    assert_eq!(send("+212600000101".into()).await, Value::Null);
    assert_eq!(send("+212600000101".into()).await, 131_056);
    let crowd = async |from: usize| {
        let sends: Vec<_> = (from..from + 120).map(|person| send(format!("+2126111{person:05}"))).collect();
        let answers = futures_util::future::join_all(sends).await;
        let refused = answers.iter().filter(|answer| **answer == 130_429).count();
        assert_eq!(answers.iter().filter(|answer| answer.is_null()).count() + refused, 120, "{answers:?}");
        refused
    };
    // One has arrived at this moment; whom the pair's limit refuses does not count.
    assert_eq!(crowd(0).await, 41);
    service.sims.advance(Duration::from_millis(949));
    assert_eq!(crowd(1_000).await, 120, "it is the same second");
    service.sims.advance(Duration::from_millis(1));
    assert_eq!(crowd(2_000).await, 40, "another one");
    let books = service.sims.message_books();
    assert_eq!(books.peak_per_second[&line], 1 + 3 * 120);
    assert_eq!((books.refused_pair, books.refused_throughput), (2, 41 + 120 + 40));
}

#[tokio::test]
async fn people_hide_move_stop_and_fail() {
    let service = Service::open().await;
    let (phone, line) = service.live("job-1").await;
    service.sims.hide_phone("+212600000102", Some("salma.b"));
    service.sims.write(&phone, "+212600000102", json!({"type": "button", "button": {"payload": "oui", "text": "Oui"}})).unwrap();
    let hidden =
        service.hook("a hidden phone", |seen| seen.route == "whatsapp" && changes(seen)[0]["value"]["messages"].is_array()).await;
    let value = changes(&hidden)[0]["value"].clone();
    assert_eq!((&value["messages"][0]["from"], &value["contacts"][0]["wa_id"]), (&Value::Null, &Value::Null));
    let bsuid = value["messages"][0]["from_user_id"].as_str().unwrap().to_owned();
    let body = json!({"messaging_product": "whatsapp", "recipient": bsuid, "type": "text", "text": {"body": "Merci"}});
    let (_, sent) = service.meta("POST", &format!("{line}/messages"), body).await;
    assert_eq!(sent["contacts"][0], json!({"input": bsuid, "user_id": bsuid}));

    let told =
        |wanted: &'static str| move |seen: &Seen| seen.route == "whatsapp" && changes(seen).iter().any(|c| c["field"] == wanted);
    service.sims.prefer(&phone, "+212600000103", "stop");
    service.hook("a preference", told("user_preferences")).await;
    service.sims.renumber(&phone, "+212600000102", "+212600000999");
    let moved = service.hook("a number change", told("user_id_update")).await;
    let update = changes(&moved).into_iter().find(|change| change["field"] == "user_id_update").unwrap();
    assert_eq!(update["value"]["user_id_update"][0]["user_id"]["previous"], bsuid.as_str());

    let only = Some("+212600000104".to_owned());
    service.sims.scene(ScenePlan { scene: Scene::MessageFails { code: 131_026 }, times: 1, only });
    approved(&service, "bonjour").await;
    service.meta("POST", &format!("{line}/messages"), filled("bonjour", "+212600000104", "fails")).await;
    service.sims.settle().await;
    let failed = statuses(&service).into_iter().find(|status| status["biz_opaque_callback_data"] == "fails").unwrap();
    assert_eq!((&failed["status"], &failed["errors"][0]["code"]), (&json!("failed"), &json!(131_026)));
    assert_eq!(failed["recipient_user_id"], Value::Null);
}

#[tokio::test]
async fn media_go_up_come_down_and_grow_old() {
    let service = Service::open().await;
    let (_, line) = service.live("job-1").await;
    let file = reqwest::multipart::Part::bytes(b"\x89PNG picture".to_vec()).file_name("a.png").mime_str("image/png").unwrap();
    let form = reqwest::multipart::Form::new().text("messaging_product", "whatsapp").text("type", "image/png").part("file", file);
    let token = service.sims.config().meta.system_token.clone();
    let http = reqwest::Client::new();
    let url = format!("{}/v25.0/{line}/media", service.sims.meta_url());
    let answer = http.post(url).bearer_auth(&token).multipart(form).send().await.unwrap();
    let media: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    let id = media["id"].as_str().unwrap();
    let (_, shown) = service.meta("GET", id, Value::Null).await;
    assert_eq!((&shown["mime_type"], &shown["file_size"]), (&json!("image/png"), &json!("12")));
    let fetch = async || http.get(shown["url"].as_str().unwrap()).bearer_auth(&token).send().await.unwrap();
    assert_eq!(fetch().await.bytes().await.unwrap(), &b"\x89PNG picture"[..]);
    assert_eq!(http.get(shown["url"].as_str().unwrap()).send().await.unwrap().status(), 401, "the link needs the token");
    service.sims.advance(Duration::from_secs(301));
    assert_eq!(fetch().await.status(), 404);
    let image = json!({"messaging_product": "whatsapp", "to": "+212600000101", "type": "image", "image": {"id": id}});
    assert_eq!(service.meta("POST", &format!("{line}/messages"), image).await.0, 200);
    assert_eq!(service.meta("DELETE", id, Value::Null).await.0, 200);
    assert_eq!(service.meta("GET", id, Value::Null).await.1["error"]["error_subcode"], 33);
}

#[tokio::test]
async fn meta_webhooks_are_batched_retried_for_days_and_doubled() {
    let service = Service::open().await;
    let (phone, _) = service.live("job-1").await;
    let texts = |service: &Service| {
        let hooks = service.hooks().into_iter().filter(|seen| seen.route == "whatsapp");
        hooks.filter(|seen| changes(seen)[0]["value"]["messages"].is_array()).collect::<Vec<_>>()
    };
    for number in 0..5 {
        service.sims.write(&phone, "+212600000101", json!({"type": "text", "text": {"body": format!("{number}")}}));
    }
    service.sims.settle().await;
    assert_eq!(texts(&service).iter().map(|seen| changes(seen).len()).sum::<usize>(), 5);
    let batches = texts(&service).len();
    assert!(batches < 5, "several in one");

    service.refuse_hooks(&[503; 6]);
    service.sims.write(&phone, "+212600000101", json!({"type": "text", "text": {"body": "again"}}));
    service.sims.settle().await;
    for _ in 0..8 {
        service.sims.advance(Duration::from_secs(6 * 3_600));
        service.sims.settle().await;
    }
    assert_eq!(texts(&service).len() - batches, 7);

    service.sims.hook_fault(HookPlan { event: "messages".into(), fault: HookFault::Duplicate, times: 1, only: None });
    service.sims.write(&phone, "+212600000101", json!({"type": "text", "text": {"body": "twice"}}));
    service.sims.settle().await;
    assert_eq!(texts(&service).len() - batches, 9);

    service.sims.hook_fault(HookPlan { event: "messages".into(), fault: HookFault::Lose, times: 1, only: None });
    service.sims.write(&phone, "+212600000101", json!({"type": "text", "text": {"body": "lost once"}}));
    service.sims.settle().await;
    assert_eq!(texts(&service).len() - batches, 10, "tried again at once");
}

#[tokio::test]
async fn in_a_hostile_world_meta_tells_everything_in_the_end() {
    const SENDS: usize = 50;
    let service = Service::open().await;
    let (_, line) = service.live("job-1").await;
    approved(&service, "bonjour").await;
    service.sims.be(Profile::Hostile { seed: 5 });
    for number in 0..SENDS {
        let body = filled("bonjour", &format!("+2126000001{number:02}"), &format!("attempt-{number}"));
        // Some answers are lost; what was accepted is told of all the same.
        let _ = service.try_meta("POST", &format!("{line}/messages"), Some(body)).await;
    }
    for _ in 0..10 {
        service.sims.settle().await;
        service.sims.advance(Duration::from_secs(60));
    }
    service.sims.settle().await;
    let told = statuses(&service);
    let ends = told.iter().filter(|status| matches!(status["status"].as_str(), Some("delivered" | "read" | "failed")));
    let ends: BTreeSet<&str> = ends.filter_map(|status| status["biz_opaque_callback_data"].as_str()).collect();
    let accepted: BTreeSet<String> = service.sims.message_books().per_callback.into_keys().collect();
    assert!(accepted.len() > SENDS / 2, "{accepted:?}");
    assert_eq!(ends, accepted.iter().map(String::as_str).collect());
}

#[tokio::test]
async fn without_funds_nothing_is_delivered() {
    let service = Service::open().await;
    let (_, line) = service.live("job-1").await;
    approved(&service, "bonjour").await;
    service.sims.set_account(false, false);
    let (_, seen) = service.meta("GET", &format!("{line}?fields=health_status"), Value::Null).await;
    assert_eq!(seen["health_status"]["can_send_message"], "BLOCKED");
    service.meta("POST", &format!("{line}/messages"), filled("bonjour", "+212600000101", "a")).await;
    service.sims.settle().await;
    assert_eq!(statuses(&service)[0]["errors"][0]["code"], 131_042);
}
