internal import CLinux
internal import Glibc

/// A transaction while its body runs. Operations see the store as this transaction would leave it.
public final class XenstoreTransaction: RequestCarrier {
    private let client: XenstoreClient
    private let id: UInt32
    fileprivate private(set) var isAborted = false
    private var isOver = false

    fileprivate init(_ client: XenstoreClient, id: UInt32) {
        self.client = client
        self.id = id
    }

    /// Makes the transaction end without effect, and without an error, once its body has returned.
    public func abort() {
        isAborted = true
    }

    func carry(_ requests: [XenstoreRequest]) throws(XenstoreError) -> [Reply] {
        guard !isOver else { throw .invalidArgument("a transaction was used after its end") }
        return try client.exchange(requests, transaction: id)
    }

    /// Ends it: true if the server has taken all of it, false if it has to be repeated.
    fileprivate func end(commit: Bool) throws(XenstoreError) -> Bool {
        defer { isOver = true }
        do throws(XenstoreError) {
            _ = try carry(.transactionEnd(commit: commit))
            return true
        } catch {
            guard error.meansTransactionLost else { throw error }
            return false
        }
    }
}

extension XenstoreError {
    /// A conflict is EAGAIN. A transaction that the server no longer knows (it was updated, or dropped it) is ENOENT for
    /// C xenstored and EIO for oxenstored.
    fileprivate var meansTransactionLost: Bool {
        switch name {
        case .again, .noEntry, .inputOutput: true
        default: false
        }
    }
}

extension XenstoreClient {
    /// Runs `body` in a transaction and commits it; repeats both, a bounded number of times, when another connection's
    /// changes were in the way. `body` must be fit to run more than once. An error thrown by it aborts the transaction.
    ///
    /// Keep transactions small: C xenstored reports a conflict for a new child in a directory that gained another.
    public func transaction<Value>(
        _ body: (XenstoreTransaction) throws(XenstoreError) -> Value
    ) throws(XenstoreError) -> Value {
        for attempt in 0..<configuration.transactionAttempts {
            pauseBeforeAttempt(attempt)
            if let value = try attemptTransaction(body) { return value }
        }
        throw .contention(attempts: configuration.transactionAttempts)
    }

    /// One attempt; nil if it has to be repeated.
    private func attemptTransaction<Value>(
        _ body: (XenstoreTransaction) throws(XenstoreError) -> Value
    ) throws(XenstoreError) -> Value? {
        let transaction = XenstoreTransaction(self, id: try startTransaction())
        do throws(XenstoreError) {
            let value = try body(transaction)
            let ended = try transaction.end(commit: !transaction.isAborted)
            return ended || transaction.isAborted ? value : nil
        } catch {
            guard isConnected, case .refused = error else { throw abandon(transaction, because: error) }
            let wasKnown = try transaction.end(commit: false)
            if !wasKnown || error.name == .again { return nil }
            throw error
        }
    }

    private func abandon(_ transaction: XenstoreTransaction, because error: XenstoreError) -> XenstoreError {
        if isConnected { _ = try? transaction.end(commit: false) }
        return error
    }

    private func startTransaction() throws(XenstoreError) -> UInt32 {
        let payload = try carry(.transactionStart())
        let digits = XenstoreValue(payload.last == 0 ? payload.dropLast() : payload)
        guard let id = digits.unsigned(atMost: UInt64(UInt32.max)), id != 0 else {
            throw lose(.protocolViolation("transaction id '\(digits)'"))
        }
        return UInt32(truncatingIfNeeded: id)
    }

    /// Clients that collided must not collide again: each waits a random part of a time that doubles, up to 32 ms.
    private func pauseBeforeAttempt(_ attempt: Int) {
        guard attempt > 0, configuration.retryPauseMicroseconds > 0 else { return }
        let longest = configuration.retryPauseMicroseconds << UInt32(min(attempt, 6))
        usleep(UInt32.random(in: 0...min(longest, 32_000)))
    }
}
