//! What goes wrong on command, and only then.

use crate::service::Service;
use serde_json::{Value, json};
use simulators::{Config, Fault, FaultPlan, HookFault, HookPlan, Hostility, Profile, Scene, ScenePlan, Style, operations};
use std::{collections::BTreeSet, time::Duration};

#[tokio::test]
async fn an_answer_lost_after_the_act_leaves_one_purchase() {
    let service = Service::open().await;
    let phone = service.find("MA").await;
    service.sims.fault_next("telnyx.order", Fault::LoseAnswer);
    let body = json!({"phone_numbers": [{"phone_number": phone}], "customer_reference": "job-1"});
    let lost = service.try_telnyx("POST", "number_orders", Some(body.clone())).await;
    assert!(lost.is_err(), "{lost:?}");
    let (_, found) = service.telnyx("GET", "number_orders?filter[customer_reference]=job-1", Value::Null).await;
    assert_eq!(found["meta"]["total_results"], 1);
    let (status, again) = service.telnyx("POST", "number_orders", body).await;
    assert_eq!((status, &again["errors"][0]["code"]), (422, &json!("85001")));
    service.sims.settle().await;
    assert_eq!(service.sims.books().purchases("job-1"), 1);
    let journal = service.sims.journal();
    let first = journal.iter().find(|entry| entry.operation == "telnyx.order").unwrap();
    assert_eq!((first.status, first.acted, first.outcome.as_str()), (None, true, "lose_answer, ok"));
    assert!(first.about.contains(&"job-1".to_owned()));
}

#[tokio::test]
async fn a_call_lost_before_the_act_leaves_nothing() {
    let service = Service::open().await;
    let phone = service.find("MA").await;
    service.sims.fault_next("telnyx.order", Fault::LoseCall);
    let body = json!({"phone_numbers": [{"phone_number": phone}], "customer_reference": "job-1"});
    assert!(service.try_telnyx("POST", "number_orders", Some(body)).await.is_err());
    assert!(service.sims.books().orders.is_empty());
}

#[tokio::test]
async fn every_operation_can_be_refused_lost_throttled_and_broken() {
    let names = operations();
    assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len(), "names are unique");
    assert!(names.iter().all(|name| name.starts_with("telnyx.") || name.starts_with("meta.")));
    let service = Service::open().await;
    let faults = [
        Fault::Refuse { status: 0, code: 10_007 },
        Fault::Throttle { headers: true, retry_after_s: 3 },
        Fault::ServerError { status: 503, acted: false },
        Fault::SlowBody { ms: 1 },
        Fault::HooksFirst,
    ];
    for fault in faults {
        service.sims.fault_next("telnyx.balance", fault.clone());
        let (status, body) = service.telnyx("GET", "balance", Value::Null).await;
        match fault {
            Fault::Refuse { .. } => assert_eq!((status, &body["errors"][0]["code"]), (500, &json!("10007"))),
            Fault::Throttle { .. } => assert_eq!((status, &body["errors"][0]["code"]), (429, &json!("10011"))),
            Fault::ServerError { .. } => assert_eq!((status, &body), (503, &Value::Null)),
            _ => assert_eq!((status, &body["data"]["currency"]), (200, &json!("USD"))),
        }
    }
    service.sims.fault_next("meta.*", Fault::Refuse { status: 0, code: 190 });
    let (status, body) = service.meta("GET", service.waba(), Value::Null).await;
    assert_eq!((status, &body["error"]["code"]), (401, &json!(190)));
}

#[tokio::test]
async fn a_hanging_call_ends_when_the_clock_passes() {
    let service = Service::open().await;
    service.sims.fault_next("telnyx.balance", Fault::Hang { ms: 3_600_000 });
    let (hung, ()) = tokio::join!(service.try_telnyx("GET", "balance", None), async {
        while service.sims.journal().is_empty() {
            tokio::task::yield_now().await;
        }
        service.sims.advance(Duration::from_secs(3_601));
    });
    assert!(hung.is_err());
}

#[tokio::test]
async fn throttling_tells_the_wait_in_both_styles_or_not_at_all() {
    let service = Service::open().await;
    let ask = async |fault| {
        service.sims.fault_next("telnyx.balance", fault);
        let url = format!("{}/balance", service.sims.telnyx_url());
        let answer = reqwest::Client::new().get(url).bearer_auth(&service.sims.config().telnyx.api_key).send().await.unwrap();
        answer.headers().get("x-ratelimit-reset").map(|value| value.to_str().unwrap().parse::<u64>().unwrap())
    };
    assert_eq!(ask(Fault::Throttle { headers: true, retry_after_s: 7 }).await, Some(7));
    assert!(ask(Fault::Throttle { headers: true, retry_after_s: 8 }).await.unwrap() > 1_000_000_000);
    assert_eq!(ask(Fault::Throttle { headers: false, retry_after_s: 8 }).await, None);
}

#[tokio::test]
async fn plans_single_out_one_line() {
    let service = Service::open().await;
    let only = Some("job-2".to_owned());
    service.sims.scene(ScenePlan { scene: Scene::NumberTaken, times: 1, only: only.clone() });
    service.sims.fault(FaultPlan {
        operation: "telnyx.release".into(),
        fault: Fault::Refuse { status: 0, code: 10_015 },
        skip: 0,
        times: 0,
        only,
    });
    let (first, second) = (service.find("MA").await, service.find("MA").await);
    assert_eq!(service.order(&first, "job-1").await.0, 200);
    assert_eq!(service.order(&second, "job-2").await.1["errors"][0]["code"], "85001");
    let (status, again) = service.order(&second, "job-2").await;
    assert_eq!((status, &again["errors"][0]["code"]), (422, &json!("85001")), "taken for good");
    let third = service.find("MA").await;
    assert_eq!(service.order(&third, "job-2").await.0, 200);
    service.sims.settle().await;
    for number in service.sims.books().owned {
        let (status, _) = service.telnyx("DELETE", &format!("phone_numbers/{}", number.id), Value::Null).await;
        assert_eq!(status, if number.phone == first { 200 } else { 422 });
    }
}

#[tokio::test]
async fn an_order_may_fail_and_costs_nothing() {
    let service = Service::open().await;
    service.sims.scene_next(Scene::OrderFails);
    let phone = service.buy("job-1").await;
    let done = service.event("number_order.complete").await;
    assert_eq!(done.payload()["status"], "failure");
    let books = service.sims.books();
    assert!(books.is_empty_handed(), "{phone}");
    assert_eq!(books.spent, 0);
}

#[tokio::test]
async fn open_requirements_wait_for_a_person_or_a_cancellation() {
    let service = Service::open().await;
    service.sims.scene(ScenePlan { scene: Scene::RequirementsOpen, times: 2, only: None });
    let (first, second) = (service.find("MA").await, service.find("MA").await);
    let (_, order) = service.order(&first, "job-1").await;
    assert_eq!(order["data"]["requirements_met"], false);
    assert_eq!(order["data"]["phone_numbers"][0]["requirements_status"], "requirement-info-pending");
    let sub = order["data"]["sub_number_orders_ids"][0].as_str().unwrap().to_owned();
    let (status, cancelled) = service.telnyx("PATCH", &format!("sub_number_orders/{sub}/cancel"), Value::Null).await;
    assert_eq!((status, &cancelled["data"]["status"]), (200, &json!("cancelled")));

    let (_, order) = service.order(&second, "job-2").await;
    let id = order["data"]["id"].as_str().unwrap();
    let values: Vec<Value> = order["data"]["phone_numbers"][0]["regulatory_requirements"].as_array().unwrap().clone();
    let filled: Vec<Value> =
        values.iter().map(|v| json!({"requirement_id": v["requirement_id"], "field_value": "given"})).collect();
    let (status, under_review) =
        service.telnyx("PATCH", &format!("number_orders/{id}"), json!({"regulatory_requirements": filled})).await;
    assert_eq!(status, 200);
    assert_eq!(under_review["data"]["phone_numbers"][0]["requirements_status"], "requirement-info-under-review");
    service.sims.decide_order(id, false);
    let (_, refused) = service.telnyx("GET", &format!("number_orders/{id}"), Value::Null).await;
    assert_eq!(refused["data"]["phone_numbers"][0]["requirements_status"], "requirement-info-exception");
    service.sims.decide_order(id, true);
    service.sims.settle().await;
    let books = service.sims.books();
    assert_eq!((books.owned.len(), books.purchases("job-1"), books.purchases("job-2")), (1, 0, 1));
}

#[tokio::test]
async fn codes_may_be_wrong_texted_or_never_come() {
    let service = Service::open().await;
    let phone = service.buy("job-1").await;
    let id = service.add(&phone, "Atlas").await;
    let next_code = Duration::from_secs(61);

    service.sims.scene_next(Scene::NobodyCalls);
    assert_eq!(service.ask_code(&id, "VOICE", "fr").await.0, 200);
    service.sims.settle().await;
    assert!(service.sims.code_of(&id).is_some());
    assert!(service.hooks().iter().all(|seen| seen.event() != "call.initiated"));

    service.sims.advance(next_code);
    service.sims.scene_next(Scene::TextInstead);
    service.ask_code(&id, "VOICE", "en_US").await;
    let text = service.event("message.received").await;
    assert!(service.hooks().iter().all(|seen| seen.event() != "call.initiated"), "{text:?}");

    service.sims.advance(next_code);
    service.sims.scene_next(Scene::WrongCode);
    service.sims.scene_next(Scene::Speak { style: Style::Joined });
    service.ask_code(&id, "VOICE", "en_US").await;
    let ringing = service.event("call.initiated").await;
    service.pick_up(ringing.payload()["call_control_id"].as_str().unwrap(), "en").await;
    let saved = service.event("call.recording.saved").await;
    let right = service.sims.code_of(&id).unwrap();
    let link = saved.payload()["recording_urls"]["wav"].as_str().unwrap().to_owned();
    let audio = reqwest::get(&link).await.unwrap().bytes().await.unwrap();
    assert_eq!((&audio[..4], &audio[8..12]), (&b"RIFF"[..], &b"WAVE"[..]));
    let (_, heard) = service.telnyx("POST", "ai/audio/transcriptions", json!({"file_url": link, "model": "whisper"})).await;
    let heard = heard["text"].as_str().unwrap();
    assert!(heard.contains("code is") && !heard.contains(&right), "{heard}");
    let (_, wrong) = service.meta("POST", &format!("{id}/verify_code?code=000000"), Value::Null).await;
    assert_eq!(wrong["error"]["code"], 136_025);

    service.sims.advance(Duration::from_secs(601));
    assert_eq!(reqwest::get(&link).await.unwrap().status(), 403, "links die after ten minutes");
    let recording = saved.payload()["recording_id"].as_str().unwrap();
    let (status, _) = service.telnyx("DELETE", &format!("recordings/{recording}"), Value::Null).await;
    assert_eq!(status, 200);
    let (status, _) = service.telnyx("GET", &format!("recordings/{recording}"), Value::Null).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn webhooks_are_doubled_dropped_late_early_and_forged() {
    let service = Service::open().await;
    let plan = |event: &str, fault| HookPlan { event: event.into(), fault, times: 1, only: None };
    service.sims.hook_fault(plan("number_order.*", HookFault::Duplicate));
    service.sims.fault_next("telnyx.order", Fault::HooksFirst);
    let phone = service.find("MA").await;
    service.order(&phone, "job-1").await;
    let early: Vec<_> = service.hooks().into_iter().filter(|seen| seen.event() == "number_order.complete").collect();
    assert_eq!(early.len(), 2, "twice, and before the answer");
    assert_eq!(early[0].body["data"]["id"], early[1].body["data"]["id"]);

    service.sims.hook_fault(plan("message.received", HookFault::Drop));
    service.sims.hook_fault(plan("message.received", HookFault::BadSignature));
    service.sims.hook_fault(plan("message.received", HookFault::Stale));
    service.sims.hook_fault(plan("message.received", HookFault::Late { ms: 100_000 }));
    for text in ["dropped", "forged", "stale", "late"] {
        service.sims.text(&phone, "+212600000101", text);
        service.sims.settle().await;
    }
    let texts = |service: &Service| service.hooks().into_iter().filter(|s| s.event() == "message.received").collect::<Vec<_>>();
    let got = texts(&service);
    assert_eq!(got.len(), 2);
    assert_eq!(got.iter().map(|seen| service.telnyx_signed(seen)).collect::<Vec<_>>(), [false, true]);
    let stamp: i64 = got[1].headers["telnyx-timestamp"].to_str().unwrap().parse().unwrap();
    assert!(service.sims.clock().now().timestamp() - stamp > 300);
    service.sims.advance(Duration::from_secs(100));
    service.sims.settle().await;
    assert_eq!(texts(&service).len(), 3);
}

#[tokio::test]
async fn refused_webhooks_come_again_and_are_on_record() {
    let service = Service::open().await;
    let phone = service.buy("job-1").await;
    service.refuse_hooks(&[500, 503]);
    service.sims.text(&phone, "+212600000101", "hello");
    service.sims.settle().await;
    for _ in 0..3 {
        service.sims.advance(Duration::from_secs(10));
        service.sims.settle().await;
    }
    let tries: Vec<_> = service.hooks().into_iter().filter(|seen| seen.event() == "message.received").collect();
    let attempts: Vec<_> = tries.iter().map(|seen| seen.body["meta"]["attempt"].as_u64().unwrap()).collect();
    assert_eq!(attempts, [1, 2, 3]);
    assert!(tries.iter().all(|seen| service.telnyx_signed(seen)));
    let (_, failed) = service
        .telnyx("GET", "webhook_deliveries?filter[event_type]=message.received&filter[status][eq]=failed", Value::Null)
        .await;
    assert_eq!(failed["meta"]["total_results"], 2);
    assert_eq!(failed["data"][0]["webhook"]["payload"]["text"], "hello");
}

#[tokio::test]
async fn the_hostile_world_is_the_same_for_the_same_seed() {
    let mut worlds = Vec::new();
    for _ in 0..2 {
        let hostility = Hostility { hang: 0, ..Hostility::default() };
        let service = Service::with(Config { profile: Profile::Hostile { seed: 7 }, hostility, ..Config::default() }).await;
        let mut answers = Vec::new();
        for _ in 0..200 {
            answers.push(service.try_telnyx("GET", "balance", None).await.ok().map(|(status, _)| status));
        }
        assert!([None, Some(429), Some(502), Some(200)].iter().all(|outcome| answers.contains(outcome)), "{answers:?}");
        worlds.push(answers);
    }
    assert_eq!(worlds[0], worlds[1]);
}

#[tokio::test]
async fn control_works_over_http() {
    let service = Service::open().await;
    let plan = json!({"operation": "telnyx.order", "fault": {"refuse": {"code": 20100}}});
    assert_eq!(service.control("POST", "faults", plan).await.0, 204);
    assert_eq!(service.control("POST", "scenes", json!({"scene": "name_declined", "only": "Atlas"})).await.0, 204);
    let (_, waiting) = service.control("GET", "faults", Value::Null).await;
    assert_eq!((&waiting["faults"][0]["times"], &waiting["scenes"][0]["scene"]), (&json!(1), &json!("name_declined")));
    let phone = service.find("MA").await;
    assert_eq!(service.order(&phone, "job-1").await.1["errors"][0]["code"], "20100");
    assert_eq!(service.order(&phone, "job-1").await.0, 200);
    service.control("POST", "settle", Value::Null).await;
    let id = service.add(&phone, "Atlas").await;
    service.ask_code(&id, "SMS", "fr").await;
    let (_, code) = service.control("GET", &format!("codes/{}", &phone[1..]), Value::Null).await;
    assert_eq!(code["code"].as_str().map(str::len), Some(6));
    let (_, clock) = service.control("POST", "clock", json!({"advance_s": 3600})).await;
    assert_eq!(clock["advanced_s"], 3600);
    let (_, number) = service.meta("GET", &format!("{id}?fields=name_status,code"), Value::Null).await;
    assert_eq!(number, json!({"id": id, "name_status": "DECLINED"}));
    let (_, journal) = service.control("GET", "journal?operation=meta.request_code", Value::Null).await;
    assert_eq!(journal.as_array().unwrap().len(), 1);
    let (_, books) = service.control("GET", "books", Value::Null).await;
    assert_eq!(books["owned"][0]["phone"], phone.as_str());
    let (_, names) = service.control("GET", "operations", Value::Null).await;
    assert!(names.as_array().unwrap().contains(&json!("meta.register")));
}
