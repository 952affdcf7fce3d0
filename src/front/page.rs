//! Lists: `{"data":[…],"next_cursor":…}`, the youngest first, asked on with `?cursor=`.

use crate::problem::{Code, Problem};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Rows of a page unless the caller says otherwise.
const PAGE_ROWS: i64 = 50;
/// Most rows of a page.
const PAGE_MAX_ROWS: i64 = 200;

/// Where a page begins and how long it is.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Paging {
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Rows: 1 to 200, 50 unless said.
    limit: Option<i64>,
}

impl Paging {
    pub(crate) fn before(&self) -> Result<Option<Uuid>, Problem> {
        self.cursor.as_deref().map(|text| Uuid::try_parse(text).map_err(|_| Code::BAD_CURSOR.into())).transpose()
    }
    fn rows(&self) -> i64 {
        self.limit.unwrap_or(PAGE_ROWS).clamp(1, PAGE_MAX_ROWS)
    }
    /// How many rows to ask for: one more than shown tells whether there are more.
    pub(crate) fn ask(&self) -> i64 {
        self.rows() + 1
    }
    /// The page of the rows that `ask` brought.
    pub(crate) fn page<T>(&self, mut data: Vec<T>, id: impl Fn(&T) -> Uuid) -> Page<T> {
        let rows = usize::try_from(self.rows()).unwrap_or(usize::MAX);
        let more = data.len() > rows;
        data.truncate(rows);
        let next_cursor = if more { data.last().map(|last| id(last).simple().to_string()) } else { None };
        Page { data, next_cursor }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    pub(crate) data: Vec<T>,
    /// Null on the last page.
    pub(crate) next_cursor: Option<String>,
}
