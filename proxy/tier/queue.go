package tier

import (
	"context"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/metrics"
)

// The bounds of what waits: nothing is lost with a blob that is not written, since it is
// found to be missing later.
const (
	queued   = 1000
	writers  = 2
	maxTries = 3
	maxPause = 5 * time.Minute
)

// writes is how writing goes.
type writes struct {
	mu       sync.Mutex
	failures int       // in a row
	since    time.Time // of the first of them
	why      error     // the last of them; nil for none
	at       time.Time // of the last
}

// Keep has a blob written to the bucket soon, or, if too many wait, not. It does not
// wait. Only public blobs that came from their registry are for the bucket.
func (t *Tier) Keep(d digest.Digest) {
	if t.o.ReadOnly {
		return
	}
	select {
	case t.queue <- d:
	default:
		t.o.Metrics.Wrote(metrics.TierDropped)
		t.missing.add(1)
		if t.noted.dropped.Allow(t.o.Now()) {
			t.o.Log.Warn("blobs are not written to the S3 tier: too many wait", "bucket", t.o.URL.Redacted(), "waiting", queued)
		}
	}
}

// writeQueued writes what is queued, and what comes from older while nothing is, until ctx
// ends.
func (t *Tier) writeQueued(ctx context.Context, store Store, older <-chan digest.Digest) {
	for {
		from := older
		if len(t.queue) > 0 {
			from = nil
		}
		select {
		case <-ctx.Done():
			return
		case d := <-t.queue:
			t.writeOne(ctx, store, d)
		case d := <-from:
			t.writeOne(ctx, store, d)
		}
	}
}

// writeOne writes a blob, in a few tries. While the bucket fails, it waits.
func (t *Tier) writeOne(ctx context.Context, store Store, d digest.Digest) {
	for try := 1; ; try++ {
		if t.circuit.await(ctx) != nil || !sleep(ctx, t.writes.pause(t.bounds.pause)) {
			return
		}
		how, err := t.write(ctx, store, d)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			t.writes.worked()
			t.o.Metrics.Wrote(how)
			return
		}
		f := explain(err)
		if t.writes.failed(f, t.o.Now()) {
			t.o.Log.Warn("the bucket of the S3 tier does not take a blob", "bucket", t.o.URL.Redacted(), "digest", d, "err", f)
		}
		if try == maxTries {
			t.o.Metrics.Wrote(metrics.TierNotTaken)
			t.missing.add(1)
			return
		}
	}
}

// pause returns how long to wait before the next try: nothing while writes succeed,
// else first, and twice as long after each further failure.
func (w *writes) pause(first time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failures == 0 {
		return 0
	}
	return min(first<<min(w.failures-1, 20), maxPause)
}

func (w *writes) worked() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failures, w.why = 0, nil
}

// failed notes a failure, and reports whether it is the first.
func (w *writes) failed(why error, now time.Time) (first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if first = w.failures == 0; first {
		w.since = now
	}
	w.failures, w.why, w.at = w.failures+1, why, now
	return first
}
