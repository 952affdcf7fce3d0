//! What only time changes: locks, budgets, codes, reviews, patience.

use crate::service::{Seen, Service};
use serde_json::{Value, json};
use simulators::Scene;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn the_eleventh_registration_locks_for_72_hours() {
    let service = Service::open().await;
    let (phone, id) = service.verified("job-1").await;
    for _ in 0..10 {
        assert_eq!(service.register(&id).await.0, 200);
    }
    let (status, locked) = service.register(&id).await;
    assert_eq!((status, &locked["error"]["code"]), (400, &json!(133_016)));
    service.sims.advance(71 * HOUR);
    assert_eq!(service.register(&id).await.1["error"]["code"], 133_016);
    service.sims.advance(2 * HOUR);
    assert_eq!(service.register(&id).await.0, 200);
    assert_eq!(service.sims.books().numbers[&phone[1..]].register_calls.len(), 12);
}

#[tokio::test]
async fn a_lock_on_command_lasts_as_long() {
    let service = Service::open().await;
    let (_, id) = service.verified("job-1").await;
    service.sims.scene_next(Scene::RegisterLocked);
    assert_eq!(service.register(&id).await.1["error"]["code"], 133_016);
    service.sims.advance(73 * HOUR);
    assert_eq!(service.register(&id).await.0, 200);
}

#[tokio::test]
async fn a_pin_once_set_is_the_only_one_until_it_is_changed() {
    let service = Service::open().await;
    let (_, id) = service.live("job-1").await;
    let other = json!({"messaging_product": "whatsapp", "pin": "111111"});
    let register = async || service.meta("POST", &format!("{id}/register"), other.clone()).await;
    service.meta("POST", &format!("{id}/deregister"), json!({})).await;
    assert_eq!(register().await.1["error"]["code"], 133_005);
    assert_eq!(service.meta("POST", &id, json!({"pin": "111111"})).await.0, 200);
    assert_eq!(register().await.0, 200);
}

#[tokio::test]
async fn codes_age_and_are_not_given_out_too_often() {
    let service = Service::open().await;
    let phone = service.buy("job-1").await;
    let id = service.add(&phone, "Atlas").await;
    assert_eq!(service.register(&id).await.1["error"]["code"], 133_006, "not verified yet");
    assert_eq!(service.ask_code(&id, "SMS", "fr").await.0, 200);
    assert_eq!(service.ask_code(&id, "SMS", "fr").await.1["error"]["code"], 136_024);
    let old = service.sims.code_of(&id).unwrap();
    service.sims.advance(Duration::from_secs(601));
    let verify = async |code: &str| service.meta("POST", &format!("{id}/verify_code"), json!({"code": code})).await;
    assert_eq!(verify(&old).await.1["error"]["code"], 136_025);
    assert_eq!(service.ask_code(&id, "SMS", "fr").await.0, 200);
    let code = service.sims.code_of(&id).unwrap();
    for _ in 0..3 {
        assert_eq!(verify(&old).await.1["error"]["code"], 136_025);
    }
    assert_eq!(verify(&code).await.1["error"]["code"], 136_025, "three wrong guesses void the code");
    service.sims.advance(HOUR);
    service.ask_code(&id, "VOICE", "fr").await;
    assert_eq!(verify(&service.sims.code_of(&id).unwrap()).await.0, 200);
    assert_eq!(service.ask_code(&id, "SMS", "fr").await.1["error"]["code"], 136_024, "already verified");
    let asked = service.sims.books().numbers[&phone[1..]].code_requests.clone();
    assert_eq!(asked.iter().map(|request| request.accepted).collect::<Vec<_>>(), [true, false, true, true, false]);
}

#[tokio::test]
async fn names_are_reviewed_and_their_owners_told() {
    let service = Service::open().await;
    let (phone, id) = service.live("job-1").await;
    service.sims.scene_next(Scene::NameDeclined);
    service.meta("POST", &format!("{id}?new_display_name=Atlas%20Emploi"), Value::Null).await;
    let field = |wanted: &'static str| {
        move |seen: &Seen| {
            let value = &seen.body["entry"][0]["changes"][0]["value"];
            value["decision"] == wanted && value["requested_verified_name"] == "Atlas Emploi"
        }
    };
    let told = service.hook("a refusal", field("REJECTED")).await;
    assert_eq!(told.body["entry"][0]["changes"][0]["value"]["display_phone_number"], &phone[1..]);
    assert!(service.meta_signed(&told, &told.raw));
    service.meta("POST", &format!("{id}?new_display_name=Atlas%20Emploi"), Value::Null).await;
    service.hook("an approval", field("APPROVED")).await;
    let ask =
        async || service.meta("GET", &format!("{id}?fields=verified_name,new_display_name,new_name_status"), Value::Null).await.1;
    assert_eq!(ask().await["new_name_status"], "APPROVED");
    service.register(&id).await;
    assert_eq!(ask().await, json!({"id": id, "verified_name": "Atlas Emploi"}));
}

#[tokio::test]
async fn nobody_answers_and_the_call_ends_by_itself() {
    let service = Service::open().await;
    let phone = service.buy("job-1").await;
    service.sims.call(&phone, "allo");
    let ringing = service.event("call.initiated").await;
    let control = ringing.payload()["call_control_id"].as_str().unwrap().to_owned();
    let act = async |name: &str, body: Value| {
        service.telnyx("POST", &format!("calls/{control}/actions/{name}"), body).await.1["errors"][0]["code"].clone()
    };
    let engine = json!({"transcription_engine": "Google"});
    assert_eq!(act("transcription_start", engine.clone()).await, "90034");
    assert_eq!(act("record_start", json!({"format": "wav", "channels": "single"})).await, "90020");
    service.sims.advance(Duration::from_secs(21));
    let ended = service.event("call.hangup").await;
    assert_eq!(ended.payload()["hangup_cause"], "timeout");
    assert_eq!(act("answer", json!({})).await, "90018");
    let (_, unknown) = service.telnyx("POST", "calls/v3%3Anone/actions/answer", json!({})).await;
    assert_eq!(unknown["errors"][0]["code"], "90015");
    let (_, events) = service
        .telnyx("GET", &format!("call_events?filter[leg_id]={}", ended.payload()["call_leg_id"].as_str().unwrap()), Value::Null)
        .await;
    let names: Vec<_> = events["data"].as_array().unwrap().iter().map(|event| event["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["call.initiated", "call.hangup"]);
}

#[tokio::test]
async fn commands_keep_their_preconditions() {
    let service = Service::open().await;
    let phone = service.buy("job-1").await;
    service.sims.call(&phone, "allo");
    let ringing = service.event("call.initiated").await;
    let control = ringing.payload()["call_control_id"].as_str().unwrap().to_owned();
    let act = async |name: &str, body: Value| service.telnyx("POST", &format!("calls/{control}/actions/{name}"), body).await;
    // Nobody says a word and hangs up before all is asked.
    service.sims.hold();
    let answer = json!({"command_id": "once", "client_state": "am9i", "transcription": true,
        "transcription_config": {"transcription_engine": "Google"}});
    assert_eq!(act("answer", answer.clone()).await.0, 200);
    assert_eq!(act("answer", answer).await.0, 200, "the same command again is a quiet success");
    assert_eq!(act("transcription_start", json!({"transcription_engine": "Google"})).await.1["errors"][0]["code"], "90054");
    let timed = json!({"format": "wav", "channels": "single", "timeout_secs": 5});
    assert_eq!(act("record_start", timed).await.1["errors"][0]["code"], "90053");
    service.sims.go_on();
    let ended = service.event("call.hangup").await;
    assert_eq!((&ended.payload()["hangup_cause"], &ended.payload()["client_state"]), (&json!("normal_clearing"), &json!("am9i")));

    service.sims.call(&phone, "encore");
    let second = service
        .hook("a second call", |seen| seen.event() == "call.initiated" && seen.payload()["call_control_id"] != control.as_str())
        .await;
    let path = format!("calls/{}/actions/reject", second.payload()["call_control_id"].as_str().unwrap());
    assert_eq!(service.telnyx("POST", &path, json!({"cause": "USER_BUSY"})).await.0, 200);
    service.hook("a rejected call", |seen| seen.payload()["hangup_cause"] == "user_busy").await;
}

#[tokio::test]
async fn orders_are_refused_as_the_contract_says() {
    let service = Service::open().await;
    let code = |answer: (u16, Value)| answer.1["errors"][0]["code"].clone();
    assert_eq!(code(service.order("+212529999999", "job-1").await), "85000", "never searched for");
    let phone = service.find("MA").await;
    service.sims.advance(2 * HOUR);
    assert_eq!(code(service.order(&phone, "job-1").await), "85000", "searched for too long ago");
    let exact = format!("available_phone_numbers?filter[country_code]=MA&filter[phone_number][contains]={}", &phone[4..]);
    let (_, found) = service.telnyx("GET", &exact, Value::Null).await;
    assert_eq!(found["data"][0]["phone_number"], phone.as_str());
    let with = async |field: &str| {
        let mut body = json!({"phone_numbers": [{"phone_number": phone}]});
        body[field] = json!("nothing");
        code(service.telnyx("POST", "number_orders", body).await)
    };
    assert_eq!(with("connection_id").await, "85004");
    assert_eq!(with("messaging_profile_id").await, "85005");
    service.control("POST", "account", json!({"balance_cents": 100})).await;
    assert_eq!(code(service.order(&phone, "job-1").await), "20100");
    let (status, error) = service.telnyx("GET", "phone_numbers/12345", Value::Null).await;
    assert_eq!((status, &error["errors"][0]["code"]), (404, &json!("10005")));
    let bare = reqwest::get(format!("{}/balance", service.sims.telnyx_url())).await.unwrap();
    assert_eq!(bare.status(), 401);
}

#[tokio::test]
async fn a_signup_code_lives_thirty_seconds_and_works_once() {
    let service = Service::open().await;
    let account = service.sims.config().meta.clone();
    let exchange = async |code: &str| {
        let path = format!("oauth/access_token?client_id={}&client_secret={}&code={code}", account.app_id, account.app_secret);
        service.meta("GET", &path, Value::Null).await
    };
    service.control("POST", "account", json!({"signup_code": "one"})).await;
    let (status, token) = exchange("one").await;
    assert_eq!(status, 200);
    assert_eq!(exchange("one").await.0, 400);
    let (_, seen) =
        service.meta("GET", &format!("debug_token?input_token={}", token["access_token"].as_str().unwrap()), Value::Null).await;
    assert_eq!(seen["data"]["is_valid"], true);
    service.control("POST", "account", json!({"signup_code": "two"})).await;
    service.sims.advance(Duration::from_secs(31));
    assert_eq!(exchange("two").await.0, 400);
}

#[tokio::test]
async fn the_account_lists_adopts_and_caps_its_numbers() {
    let service = Service::open().await;
    let phone = service.buy("job-1").await;
    let id = service.add(&phone, "Atlas").await;
    let body = json!({"cc": "212", "phone_number": &phone[4..], "verified_name": "Atlas"});
    let path = format!("{}/phone_numbers", service.waba());
    assert_eq!(service.meta("POST", &path, body).await.1["error"]["code"], 100);
    let (_, listed) = service.meta("GET", &format!("{path}?limit=5"), Value::Null).await;
    let shown: String =
        listed["data"][0]["display_phone_number"].as_str().unwrap().chars().filter(char::is_ascii_digit).collect();
    assert_eq!((listed["data"][0]["id"].as_str(), shown.as_str()), (Some(id.as_str()), &phone[1..]));
    service.control("POST", "account", json!({"number_cap": 1})).await;
    let another = json!({"cc": "212", "phone_number": "520000042", "verified_name": "Atlas"});
    let (_, capped) = service.meta("POST", &path, another).await;
    assert_eq!((&capped["error"]["code"], &capped["error"]["error_subcode"]), (&json!(200), &json!(1_349_175)));
    let (_, unknown) = service.meta("GET", "599999999999999", Value::Null).await;
    assert_eq!((&unknown["error"]["code"], &unknown["error"]["error_subcode"]), (&json!(100), &json!(33)));
}

#[tokio::test]
async fn an_app_that_names_no_version_gets_the_old_format() {
    let service = Service::open().await;
    let phone = service.buy("job-1").await;
    let (_, known) = service.telnyx("GET", "call_control_applications", Value::Null).await;
    let url = known["data"][0]["webhook_event_url"].clone();
    let body = json!({"application_name": "old", "webhook_event_url": url});
    let (status, app) = service.telnyx("POST", "call_control_applications", body).await;
    assert_eq!((status, &app["data"]["webhook_api_version"]), (201, &json!("1")));
    let number = service.sims.books().owned[0].id.clone();
    let moved = json!({"connection_id": app["data"]["id"]});
    assert_eq!(service.telnyx("PATCH", &format!("phone_numbers/{number}"), moved).await.0, 200);
    service.sims.call(&phone, "allo");
    let old = service.hook("an old event", |seen| seen.body["name"] == "call.initiated").await;
    assert_eq!(old.body["metadata"]["event"]["payload"]["to"], phone.as_str());
}
