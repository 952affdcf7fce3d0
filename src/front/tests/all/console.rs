//! The console: for admins, from its own pages, and foreign words stay words.

use crate::service::{ADMIN, Answer, Service, read};
use reqwest::{Method, header::COOKIE};
use serde_json::json;
use sqlx::PgPool;

async fn form(service: &Service, path: &str, cookie: &str, body: String) -> Answer {
    let request = service
        .request(Method::POST, path, "")
        .header(COOKIE, cookie)
        .header("content-type", "application/x-www-form-urlencoded");
    read(request.body(body)).await
}

async fn page(service: &Service, path: &str, cookie: &str) -> Answer {
    read(service.request(Method::GET, path, "").header(COOKIE, cookie)).await
}

async fn log_in(service: &Service, key: &str) -> Answer {
    form(service, "/console/login", "", format!("key={key}")).await
}

fn cookie(answer: &Answer) -> String {
    answer.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
}

fn token(page: &Answer) -> String {
    page.text.split("name=token value=").nth(1).unwrap().split('>').next().unwrap().to_owned()
}

#[sqlx::test(migrations = "../../migrations")]
async fn the_console_opens_to_admins_alone(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    for path in [
        "/console",
        "/console/companies",
        "/console/runs",
        "/console/lines",
        "/console/quarantine",
        "/console/callbacks",
        "/console/jobs",
        "/console/orphans",
    ] {
        let answer = page(&service, path, "").await;
        assert_eq!((answer.status.as_u16(), answer.headers["location"].to_str().unwrap()), (303, "/console/login"), "{path}");
    }
    for key in ["nobody", service.key(tenant, "recruiter").await.as_str()] {
        assert_eq!(log_in(&service, key).await.status, 401);
    }
    let entered = log_in(&service, ADMIN).await;
    let set = entered.headers["set-cookie"].to_str().unwrap();
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict") && !set.contains(ADMIN), "{set}");
    let cookie = cookie(&entered);
    for path in [
        "/console",
        "/console/companies",
        "/console/runs",
        "/console/lines",
        "/console/quarantine",
        "/console/callbacks",
        "/console/jobs",
        "/console/orphans",
    ] {
        let answer = page(&service, path, &cookie).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(answer.headers["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
        assert_eq!(answer.headers["cache-control"], "no-store");
    }
    assert_eq!(page(&service, "/console/runs", &format!("{cookie}x")).await.status, 303);
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_button_works_from_our_own_page_only(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    let (_, run) = service.order(tenant).await;
    let cookie = cookie(&log_in(&service, ADMIN).await);
    let path = format!("/console/runs/{run}/cancel");
    assert_eq!(form(&service, &path, &cookie, "token=guessed".into()).await.status, 403);
    assert_eq!(form(&service, &path, &cookie, String::new()).await.status, 403);
    assert_eq!(form(&service, &path, "", String::new()).await.status, 303);
    assert_eq!(service.count("durable.run where cancel_at is not null").await, 0);
    let token = token(&page(&service, &format!("/console/runs/{run}"), &cookie).await);
    let done = form(&service, &path, &cookie, format!("token={token}")).await;
    assert_eq!(
        (done.status.as_u16(), done.headers["location"].to_str().unwrap()),
        (303, format!("/console/runs/{run}").as_str())
    );
    assert_eq!(service.count("durable.run where cancel_at is not null").await, 1);
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_stopped_line_is_shown_and_resumed(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    let (line, _) = service.order(tenant).await;
    sqlx::query("update line set messaging_account = '100'").execute(&service.db).await.unwrap();
    let id = domain::LineId(line.parse().unwrap());
    store::lanes::stop(&service.db, id, "the number was logged out", None).await.unwrap();
    store::lanes::stop_account(&service.db, "100", "131042", "the payment was refused", None).await.unwrap();
    let cookie = cookie(&log_in(&service, ADMIN).await);
    let path = format!("/console/lines/{line}");
    let shown = page(&service, &path, &cookie).await;
    assert!(shown.text.contains("the number was logged out") && shown.text.contains("the payment was refused"), "{}", shown.text);
    let token = token(&shown);
    for what in ["resume", "resume-account"] {
        assert_eq!(form(&service, &format!("{path}/{what}"), &cookie, "token=guessed".into()).await.status, 403);
        assert_eq!(form(&service, &format!("{path}/{what}"), &cookie, format!("token={token}")).await.status, 303);
    }
    let shown = page(&service, &path, &cookie).await;
    assert!(shown.text.contains("Nothing waits to be sent.") && !shown.text.contains("sends nothing"), "{}", shown.text);
    assert_eq!(form(&service, &format!("/console/messages/{line}/again"), &cookie, format!("token={token}")).await.status, 404);
}

#[sqlx::test(migrations = "../../migrations")]
async fn the_first_page_says_what_wants_a_person(db: PgPool) {
    let service = Service::open(db).await;
    let cookie = &cookie(&log_in(&service, ADMIN).await);
    assert!(page(&service, "/console", cookie).await.text.contains("Nothing wants you"));
    let tenant = service.tenant("Atlas").await;
    let (line, run) = service.order(tenant).await;
    store::lanes::stop(&service.db, line.parse().unwrap(), "Meta says so", None).await.unwrap();
    sqlx::query("update durable.run set status = 'stuck' where run_id = $1::uuid").bind(run).execute(&service.db).await.unwrap();
    sqlx::query("insert into credit (tenant_id, reserved_units) values ($1, 9000000)")
        .bind(tenant)
        .execute(&service.db)
        .await
        .unwrap();
    let now = page(&service, "/console", cookie).await.text;
    assert!(now.contains("stuck runs") && now.contains("stopped lines") && !now.contains("parked"), "{now}");
    let companies = page(&service, "/console/companies", cookie).await.text;
    assert!(companies.contains("Atlas") && companies.contains("900.00") && companies.contains("90 %"), "{companies}");
    assert!(page(&service, "/console/lines", cookie).await.text.contains("Meta says so"));
}

#[sqlx::test(migrations = "../../migrations")]
async fn foreign_words_are_shown_and_not_run(db: PgPool) {
    let service = Service::open(db).await;
    let evil = "<script>alert('x')</script>";
    let tenant = service.tenant(evil).await;
    let (line, run) = service.order(tenant).await;
    for (statement, value) in [
        ("update line set display_name = $1, reason = $1, quality = $1", evil),
        ("update durable.run set workflow = $1, waiting_for = $1, status = 'waiting', wait_topic = $1, wait_key = $1", evil),
    ] {
        sqlx::query(statement).bind(value).execute(&service.db).await.unwrap();
    }
    let error = json!({ "kind": "rejected", "code": evil, "why": evil });
    sqlx::query("update durable.run set error = $1").bind(&error).execute(&service.db).await.unwrap();
    store::callbacks::add(&service.db, tenant.into(), evil, evil, "{}").await.unwrap();
    store::lines::note_orphan(&service.db, "telnyx", evil, evil, None, evil).await.unwrap();
    sqlx::query(
        "insert into apalis.jobs (id, job_type, job, status, last_result, done_at)
         values ('1', $1, to_json($1::text)::text::bytea, 'Killed', json_build_object('Err', $2::json)::jsonb, now())",
    )
    .bind(evil)
    .bind(&error)
    .execute(&service.db)
    .await
    .unwrap();
    let cookie = cookie(&log_in(&service, ADMIN).await);
    for path in [
        "/console/jobs".to_owned(),
        "/console/runs".to_owned(),
        format!("/console/runs/{run}"),
        "/console/lines".to_owned(),
        format!("/console/lines/{line}"),
        "/console/callbacks".to_owned(),
        "/console/orphans".to_owned(),
    ] {
        let answer = page(&service, &path, &cookie).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.text.contains("<script") && answer.text.contains("&lt;script&gt;"), "{path}: {}", answer.text);
    }
}
