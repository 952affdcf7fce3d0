//! One file, one process: what a line goes through from order to end.

mod approve_template;
mod close_month;
mod close_tenant;
mod line;
mod provision_line;
mod release_line;

pub use approve_template::{ApproveTemplate, DeleteTemplate, SpreadTemplate, SubmitGlobals};
pub use close_month::{CloseMonth, CloseMonths, CloseNow, MonthClosed, close_tenants};
pub use close_tenant::{CloseTenant, InvoicePaid, InvoiceSettled};
pub use line::{
    PERSON_PATIENCE,
    ownership::{CODE_REQUESTS, OTP_PATIENCE, WRONG_CODES},
    purchase::ORDER_GRACE,
};
pub use provision_line::{NUMBERS_TRIED, ORDER_PATIENCE, ProvisionLine};
pub use release_line::ReleaseLine;
