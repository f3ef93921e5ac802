//! Transactions: requests 37 and 39.

use super::header;

/// commitOrRollback: commit.
pub const COMMIT: i32 = 8;
/// commitOrRollback: roll back.
pub const ROLLBACK: i32 = 12;

header! {
    /// Request 37.
    EndTransactionHeader<'a> {
        /// Topic.
        topic: Option<&'a str> = "topic",
        /// Producer group.
        producer_group: &'a str = "producerGroup",
        /// Queue offset of the half message.
        transaction_state_offset: i64 = "tranStateTableOffset",
        /// Position of the half message.
        position: i64 = "commitLogOffset",
        /// [`COMMIT`], [`ROLLBACK`], or 0 for not yet known.
        outcome: i32 = "commitOrRollback",
        /// Whether this answers a check.
        from_check: Option<bool> = "fromTransactionCheck",
        /// Unique key.
        message_id: &'a str = "msgId",
        /// Transaction id.
        transaction_id: Option<&'a str> = "transactionId",
    }
}

header! {
    /// Request 39, to a producer.
    CheckTransactionHeader<'a> {
        /// Topic.
        topic: Option<&'a str> = "topic",
        /// Queue offset of the half message.
        transaction_state_offset: i64 = "tranStateTableOffset",
        /// Position of the half message.
        position: i64 = "commitLogOffset",
        /// Unique key.
        message_id: Option<&'a str> = "msgId",
        /// Transaction id.
        transaction_id: Option<&'a str> = "transactionId",
        /// Offset message id.
        offset_message_id: Option<&'a str> = "offsetMsgId",
        /// Broker name.
        broker_name: Option<&'a str> = "bname",
    }
}
