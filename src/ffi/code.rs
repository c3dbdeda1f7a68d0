//! Error codes: one for each kind of error, in bands of a thousand.

use crate::error::{Category, ErrorKind, Phase};

macro_rules! codes {
    ($($name:ident = $value:literal),+ $(,)?) => {
        /// A code with its name in the header.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) struct Code(i32);

        $(pub(super) const $name: Code = Code($value);)+

        impl Code {
            /// Name in the header, followed by NUL.
            fn name_with_nul(self) -> &'static str {
                match self.0 {
                    0 => "TINKEX_OK\0",
                    $($value => concat!("TINKEX_ERROR_", stringify!($name), "\0"),)+
                    // A refusal with any other HTTP status.
                    2400..2600 => "TINKEX_ERROR_STATUS\0",
                    _ => "TINKEX_ERROR_UNKNOWN\0",
                }
            }
        }

    };
}

codes! {
    NULL = 1001,
    UTF8 = 1002,
    KIND = 1003,
    RANGE = 1005,
    UNSUPPORTED = 1006,
    FORKED = 1007,
    LENGTH = 1008,
    ALREADY = 1009,
    HANDLE = 1010,
    NAME = 1011,
    DEADLOCK = 1012,
    CONFIG = 1100,
    INVALID_INPUT = 1101,
    SYSTEM = 1102,
    CUSTOM_LOSS = 1103,
    CONNECTION = 2001,
    DECODE = 2002,
    INCOMPATIBLE = 2003,
    STATUS = 2004,
    CIRCUIT_OPEN = 2005,
    PAUSED = 2006,
    TIMEOUT_ADMISSION = 2101,
    TIMEOUT_RESOLVE = 2102,
    TIMEOUT_CONNECT = 2103,
    TIMEOUT_SEND = 2104,
    TIMEOUT_FIRST_BYTE = 2105,
    TIMEOUT_BODY = 2106,
    TIMEOUT_EXCHANGE = 2107,
    TIMEOUT_TOTAL = 2108,
    TIMEOUT_WAIT = 2109,
    AUTH = 2401,
    BILLING = 2402,
    PERMISSION = 2403,
    NOT_FOUND = 2404,
    CONFLICT = 2409,
    RATE_LIMITED = 2429,
    FAILED_USER = 3001,
    FAILED_SERVER = 3002,
    FAILED_UNKNOWN = 3003,
    EXPIRED = 3004,
    STUCK = 3005,
    CANCELLED = 4001,
    CLOSED = 4002,
    POISONED = 4003,
    PANIC = 9000,
    WORKER_PANIC = 9001,
}

pub(super) const OK: i32 = 0;

impl Code {
    pub(super) fn new(code: i32) -> Self {
        Code(code)
    }

    pub(super) const fn number(self) -> i32 {
        self.0
    }

    /// Name in the header.
    pub(super) fn name(self) -> &'static str {
        let name = self.name_with_nul();
        &name[..name.len() - 1]
    }

    /// Name in the header, as text for C.
    pub(super) fn c_name(self) -> *const std::ffi::c_char {
        self.name_with_nul().as_ptr().cast()
    }

    pub(super) fn of(kind: &ErrorKind) -> Self {
        match kind {
            ErrorKind::Config => CONFIG,
            ErrorKind::Auth => AUTH,
            ErrorKind::Permission => PERMISSION,
            ErrorKind::NotFound => NOT_FOUND,
            ErrorKind::Conflict => CONFLICT,
            ErrorKind::InvalidInput(_) => INVALID_INPUT,
            ErrorKind::Billing => BILLING,
            ErrorKind::RateLimited => RATE_LIMITED,
            ErrorKind::Status { code: code @ 400..600 } => Code(2000 + i32::from(*code)),
            ErrorKind::Status { .. } => STATUS,
            ErrorKind::Timeout(phase) => match phase {
                Phase::Admission => TIMEOUT_ADMISSION,
                Phase::Resolve => TIMEOUT_RESOLVE,
                Phase::Connect => TIMEOUT_CONNECT,
                Phase::Send => TIMEOUT_SEND,
                Phase::FirstByte => TIMEOUT_FIRST_BYTE,
                Phase::Body => TIMEOUT_BODY,
                Phase::Exchange => TIMEOUT_EXCHANGE,
                Phase::Total => TIMEOUT_TOTAL,
            },
            ErrorKind::Connection { .. } => CONNECTION,
            ErrorKind::Decode => DECODE,
            ErrorKind::Incompatible => INCOMPATIBLE,
            ErrorKind::RequestFailed { category: Category::User } => FAILED_USER,
            ErrorKind::RequestFailed { category: Category::Server } => FAILED_SERVER,
            ErrorKind::RequestFailed { .. } => FAILED_UNKNOWN,
            ErrorKind::PromiseExpired => EXPIRED,
            ErrorKind::Stuck { .. } => STUCK,
            ErrorKind::Cancelled => CANCELLED,
            ErrorKind::Closed => CLOSED,
            ErrorKind::Panicked { .. } => WORKER_PANIC,
            ErrorKind::CustomLoss => CUSTOM_LOSS,
            ErrorKind::Poisoned => POISONED,
            ErrorKind::Paused => PAUSED,
            ErrorKind::CircuitOpen => CIRCUIT_OPEN,
            ErrorKind::System => SYSTEM,
        }
    }
}
