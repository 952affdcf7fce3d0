//! From a template that a recruiter wrote to one that Meta lets us send, or to the reason why not.

use chrono::{DateTime, Duration as Span, Utc};
use domain::{Failure, LineId, TemplateId, TenantId, template::meta_name};
use durable::{Flow, Run, Workflow};
use jobs::{TemplateReviewed, Tools};
use providers::meta::{NewTemplate, TemplateCategory, TemplateStatus};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use store::templates::{self, News, Template};
use uuid::Uuid;

/// Creations that one account may make in an hour (contracts/meta-cloud-api.md 6.1).
const CREATIONS_PER_HOUR: i64 = 100;
/// How often Meta is asked while no webhook comes: the patience, and until which age of the submission it holds (6.3).
const POLLS: [(Duration, Span); 3] = [
    (Duration::from_secs(60), Span::minutes(10)),
    (Duration::from_secs(15 * 60), Span::hours(2)),
    (Duration::from_secs(3_600), Span::days(7)),
];
/// A long review is looked at once a day, until this age.
const GIVES_UP: Span = Span::days(30);

/// Submit, or submit again after an edit; the row of table `template` says the rest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApproveTemplate {
    pub template: TemplateId,
    pub tenant: TenantId,
    /// Counts submissions of the row, so that an edit is a run of its own.
    pub version: i32,
}

impl Workflow<Tools> for ApproveTemplate {
    const NAME: &'static str = "approve_template";
    /// Meta's word: `APPROVED`, `REJECTED`, ...
    type Output = String;

    fn key(&self) -> Option<String> {
        Some(format!("{}.{}", self.template, self.version))
    }
    fn scope(&self) -> Option<Uuid> {
        Some(self.tenant.0)
    }
    async fn run<'a>(self, run: &mut Run<'a>, tools: &'a Tools) -> Flow<String> {
        let id = self.template;
        let (run_id, mut try_number) = (run.id(), 0);
        while let Some(free_at) = run.step("take a creation", take_creation(tools, id, run_id, try_number)).await? {
            let wait = (free_at - run.now().await?).to_std().unwrap_or_default() + Duration::from_secs(1);
            run.sleep("the hour's creations are used up", wait).await?;
            try_number += 1;
        }
        run.compensate("mark as failed", async move {
            let news = News {
                status: Some("failed".to_owned()),
                reason: Some("the submission did not succeed".to_owned()),
                ..News::default()
            };
            learn(tools, id, news).await.map(drop)
        });
        let submitted = match run.attempt("submit", submit(tools, id)).await? {
            Ok(submitted) => submitted,
            Err(refusal) => {
                let news = News { status: Some("REJECTED".to_owned()), reason: Some(refusal.to_string()), ..News::default() };
                run.step("note the refusal", learn(tools, id, news)).await?;
                return Ok("REJECTED".to_owned());
            }
        };
        let mut status = run.step("note", learn(tools, id, submitted)).await?;
        let since = run.now().await?;
        while is_open(&status) {
            let age = run.now().await? - since;
            if age > GIVES_UP {
                return run.fail(Failure::rejected("Meta has not reviewed the template in 30 days").code("review_overdue"));
            }
            let patience =
                POLLS.iter().find(|(_, until)| age < *until).map_or(Duration::from_secs(86_400), |(patience, _)| *patience);
            // The webhook is applied when it is taken; the run only has to look.
            let told = run.wait::<TemplateReviewed>(id, patience, "Meta's review of the template").await?.is_some();
            status = if told { run.step("look", current(tools, id)).await? } else { run.step("ask", ask(tools, id)).await? };
        }
        Ok(status)
    }
}

/// Give every tenant with a line its copy of a global template.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SpreadTemplate {
    pub global_template: Uuid,
}

impl Workflow<Tools> for SpreadTemplate {
    const NAME: &'static str = "spread_template";
    /// How many copies were submitted.
    type Output = usize;

    fn key(&self) -> Option<String> {
        Some(self.global_template.to_string())
    }
    async fn run<'a>(self, run: &mut Run<'a>, tools: &'a Tools) -> Flow<usize> {
        let tenants = run.step("list tenants", async { templates::tenants_with_lines(&tools.db).await }).await?;
        let mut copies = 0;
        for tenant in tenants {
            copies += submit_globals(run, tools, tenant, Some(self.global_template)).await?;
        }
        Ok(copies)
    }
}

/// Give a tenant whose line has just gone live its copies of every global template.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SubmitGlobals {
    pub tenant: TenantId,
    pub line: LineId,
}

impl Workflow<Tools> for SubmitGlobals {
    const NAME: &'static str = "submit_globals";
    /// How many copies were submitted.
    type Output = usize;

    fn key(&self) -> Option<String> {
        Some(self.line.to_string())
    }
    fn scope(&self) -> Option<Uuid> {
        Some(self.tenant.0)
    }
    async fn run<'a>(self, run: &mut Run<'a>, tools: &'a Tools) -> Flow<usize> {
        submit_globals(run, tools, self.tenant, None).await
    }
}

/// Copies of the global templates (or of one) for a tenant that has none yet, each with a run of its own.
async fn submit_globals(run: &mut Run<'_>, tools: &Tools, tenant: TenantId, only: Option<Uuid>) -> Flow<usize> {
    let copies = run.step("copy templates", copy_globals(tools, tenant, only)).await?;
    for template in &copies {
        run.start("submit template", &ApproveTemplate { template: *template, tenant, version: 1 }).await?;
    }
    Ok(copies.len())
}

/// The copies that wait for their submission; found again if the step is repeated.
async fn copy_globals(tools: &Tools, tenant: TenantId, only: Option<Uuid>) -> Result<Vec<TemplateId>, Failure> {
    let mut copies = Vec::new();
    for global in templates::globals(&tools.db, only).await? {
        // The id follows from whose and which it is: a repeated step makes the same copy.
        let id = TemplateId(Uuid::new_v5(&global.global_template_id, tenant.0.as_bytes()));
        let new = templates::NewTemplate {
            template_id: id,
            tenant_id: tenant,
            global_template_id: Some(global.global_template_id),
            meta_name: meta_name(tenant, &global.name),
            name: global.name,
            messaging_account: tools.meta.waba_id().to_owned(),
            language: global.language,
            category: global.category,
            components: global.components,
            parameter_format: global.parameter_format,
            introduces: global.introduces,
            message_send_ttl_seconds: global.message_send_ttl_seconds,
        };
        let there = templates::create(&tools.db, &new).await? || templates::by_id(&tools.db, id).await?.is_some();
        if there {
            copies.push(id);
        }
    }
    Ok(copies)
}

/// Delete a template everywhere; its sends that are still queued fail.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteTemplate {
    pub template: TemplateId,
    pub tenant: TenantId,
}

impl Workflow<Tools> for DeleteTemplate {
    const NAME: &'static str = "delete_template";
    type Output = ();

    fn key(&self) -> Option<String> {
        Some(self.template.to_string())
    }
    fn scope(&self) -> Option<Uuid> {
        Some(self.tenant.0)
    }
    async fn run<'a>(self, run: &mut Run<'a>, tools: &'a Tools) -> Flow<()> {
        run.step("delete at Meta", delete(tools, self.template)).await?;
        run.step("note", forget(tools, self.template)).await
    }
}

/// Neither sendable nor refused yet.
fn is_open(status: &str) -> bool {
    matches!(status, "draft" | "submitting" | "PENDING" | "IN_APPEAL" | "")
}

async fn find(tools: &Tools, id: TemplateId) -> Result<Template, Failure> {
    templates::by_id(&tools.db, id).await?.ok_or_else(|| Failure::rejected("there is no such template"))
}

async fn take_creation(tools: &Tools, id: TemplateId, run: Uuid, step: i32) -> Result<Option<DateTime<Utc>>, Failure> {
    let account = find(tools, id).await?.messaging_account;
    let mut tx = tools.db.begin().await?;
    let free_at = templates::take_creation(&mut tx, &account, run, step, CREATIONS_PER_HOUR).await?;
    tx.commit().await?;
    Ok(free_at)
}

/// Looks before it submits, so that a lost answer does not submit twice. An edit replaces the components of what is there.
async fn submit(tools: &Tools, id: TemplateId) -> Result<News, Failure> {
    let (meta, template) = (&tools.meta, find(tools, id).await?);
    if let Some(id) = &template.meta_template_id {
        let there = meta.template(id).await?;
        if there.components != template.components || !is_open(there.status.as_str()) {
            meta.edit_template(id, &template.components).await?;
        }
        return Ok(News { status: Some("PENDING".to_owned()), meta_template_id: Some(id.clone()), ..News::default() });
    }
    let new = NewTemplate {
        name: template.meta_name.clone(),
        language: template.language.clone(),
        category: TemplateCategory::from(template.category.as_str()),
        parameter_format: template.parameter_format.clone(),
        components: template.components.clone(),
        allow_category_change: true,
        message_send_ttl_seconds: template.message_send_ttl_seconds.map(i64::from),
    };
    let submitted = meta.submit_or_adopt(&new).await?;
    Ok(News {
        status: Some(word(&submitted.status)),
        category: Some(submitted.category.as_str().to_owned()).filter(|category| !category.is_empty()),
        meta_template_id: Some(submitted.id),
        ..News::default()
    })
}

fn word(status: &TemplateStatus) -> String {
    if status.as_str().is_empty() { "PENDING".to_owned() } else { status.as_str().to_owned() }
}

async fn ask(tools: &Tools, id: TemplateId) -> Result<String, Failure> {
    let template = find(tools, id).await?;
    let Some(there) = tools.meta.find_template(&template.meta_name, &template.language).await? else {
        return Err(Failure::transient("Meta does not list the template yet"));
    };
    let news = News {
        status: Some(word(&there.status)),
        reason: there.rejected_reason,
        quality: Some(there.quality.as_str().to_owned()).filter(|quality| !quality.is_empty()),
        category: Some(there.category.as_str().to_owned()).filter(|category| !category.is_empty()),
        meta_template_id: Some(there.id),
        ..News::default()
    };
    learn(tools, id, news).await
}

async fn learn(tools: &Tools, id: TemplateId, news: News) -> Result<String, Failure> {
    jobs::learn_template(tools, id, &news).await?;
    current(tools, id).await
}

async fn current(tools: &Tools, id: TemplateId) -> Result<String, Failure> {
    Ok(find(tools, id).await?.status)
}

async fn delete(tools: &Tools, id: TemplateId) -> Result<(), Failure> {
    let (meta, template) = (&tools.meta, find(tools, id).await?);
    let found = match &template.meta_template_id {
        Some(id) => Some(id.clone()),
        None => meta.find_template(&template.meta_name, &template.language).await?.map(|there| there.id),
    };
    match found {
        Some(id) => meta.delete_template(&id, &template.meta_name).await,
        None => Ok(()),
    }
}

async fn forget(tools: &Tools, id: TemplateId) -> Result<(), Failure> {
    let news = News { status: Some("DELETED".to_owned()), ..News::default() };
    jobs::learn_template(tools, id, &news).await?;
    templates::deleted(&tools.db, id).await?;
    Ok(())
}
