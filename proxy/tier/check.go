package tier

import (
	"context"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// absentKey is an object that nobody has written. An answer that it is absent shows that
// the bucket is there and that the keys may read it.
const absentKey = "blobs/hubcap-check"

// look asks the bucket whether it works, at the start and whenever the circuit has
// opened, until it does.
func (t *Tier) look(ctx context.Context) {
	if t.check(ctx) == nil {
		t.o.Log.Info("S3 tier", "bucket", t.o.URL.Redacted(), "writes", !t.o.ReadOnly)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.circuit.opened:
		}
		if t.circuit.tripped() && !sleep(ctx, t.bounds.tryAgain) {
			return
		}
		for t.check(ctx) != nil {
			if !sleep(ctx, t.bounds.tryAgain) {
				return
			}
		}
		if t.circuit.answered() {
			t.o.Log.Info("the bucket of the S3 tier is asked again", "bucket", t.o.URL.Redacted())
		}
	}
}

// check asks the bucket for an object that is not there.
func (t *Tier) check(ctx context.Context) error {
	w := newWatch(ctx, t.bounds.header)
	defer w.end()
	out, err := t.client.GetObject(w.ctx, &s3.GetObjectInput{Bucket: &t.bucket, Key: aws.String(absentKey)})
	switch {
	case err == nil:
		_, _ = io.CopyN(io.Discard, out.Body, 1<<10)
		out.Body.Close()
		return nil
	case isAbsent(err):
		return nil
	}
	return t.failed(ctx, w.cause(err))
}

// sleep waits for d. It reports false if ctx has ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
