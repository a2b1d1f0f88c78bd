package tier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/metrics"
	"hubcap/proxy/upstream/network"
)

// errAbsent says that the bucket does not have a blob, or not those bytes of it.
var errAbsent = errors.New("the bucket does not have it")

// maxBreaks is how many transfers of one blob may break until the rest comes from
// somewhere else.
const maxBreaks = 2

// Blob returns the bucket as the place of a blob, of size bytes as far as its manifest
// says so, negative if it does not. It is for one fill, or one reader.
func (t *Tier) Blob(d digest.Digest, size int64) cache.Nearer {
	if t == nil {
		return nil
	}
	return &blob{tier: t, digest: d, size: size}
}

// blob is a blob in the bucket.
type blob struct {
	tier   *Tier
	digest digest.Digest
	size   int64
	breaks atomic.Int32
	left   atomic.Bool // it is not read any more
}

// Boxes implements cache.Nearer.
func (*blob) Boxes() bool { return false }

// Places implements cache.Nearer.
func (b *blob) Places() []cache.Place {
	if b.left.Load() || b.tier.doubts(b.digest) == ofBytes || !b.tier.circuit.asks() {
		return nil
	}
	return []cache.Place{{Source: b, Name: "tier", Kind: "s3", Wrong: func() { b.tier.gaveWrong(b.digest) }, Store: true}}
}

// Open implements cache.Source.
func (b *blob) Open(ctx context.Context, off, n int64) (*cache.Stream, error) {
	t := b.tier
	in := &s3.GetObjectInput{Bucket: &t.bucket, Key: aws.String(key(b.digest))}
	if part := network.Range(off, n).Get("Range"); part != "" {
		in.Range = &part
	}
	w := newWatch(ctx, t.bounds.header)
	out, err := t.client.GetObject(w.ctx, in)
	w.pause()
	if err != nil {
		err = w.cause(err)
		w.end()
		return nil, b.refused(ctx, off, err)
	}
	t.o.Metrics.Read(metrics.TierFound)
	stream := streamOf(out)
	stream.Body = &body{ReadCloser: out.Body, blob: b, watch: w, asker: ctx, missing: aws.ToInt64(out.ContentLength)}
	if b.size >= 0 && stream.Size >= 0 && stream.Size != b.size {
		stream.Body.Close()
		b.left.Store(true)
		t.suspects.Put(b.digest, ofLength, suspectFor) // or it is the manifest that is wrong
		return nil, fmt.Errorf("the object has %d bytes, and a manifest says %d", stream.Size, b.size)
	}
	return stream, nil
}

// streamOf returns an answer without its body.
func streamOf(out *s3.GetObjectOutput) *cache.Stream {
	whole := aws.ToInt64(out.ContentLength)
	stream := &cache.Stream{End: whole, Size: whole}
	switch {
	case out.ContentRange != nil:
		stream.Off, stream.End, stream.Size, stream.Part = network.ContentRange(*out.ContentRange)
	case out.ContentLength == nil:
		stream.Size = -1
	}
	return stream
}

// refused returns the error of a request for what is at off that brought nothing.
func (b *blob) refused(asker context.Context, off int64, err error) error {
	b.left.Store(true)
	f := explain(err)
	if f.status == http.StatusRequestedRangeNotSatisfiable && off == 0 { // it is empty
		b.tier.suspects.Put(b.digest, ofLength, suspectFor)
	}
	switch {
	case isAbsent(err), f.status == http.StatusRequestedRangeNotSatisfiable:
		b.tier.o.Metrics.Read(metrics.TierAbsent)
		return fmt.Errorf("%w: %w", errAbsent, f)
	case asker.Err() == nil:
		b.tier.o.Metrics.Read(metrics.TierFailed)
	}
	return b.tier.failed(asker, err)
}

// gaveWrong notes that the object of d is not the blob. It is not read until it is
// overwritten, and the bucket rests.
func (t *Tier) gaveWrong(d digest.Digest) {
	t.o.Metrics.Read(metrics.TierWrong)
	t.suspects.Put(d, ofBytes, suspectFor)
	t.circuit.gaveWrong(d, t.bounds.wrong)
	if t.noted.wrong.Allow(t.o.Now()) {
		t.o.Log.Warn("an object of the S3 tier's bucket is not what its key says; the bucket is not asked for a while",
			"bucket", t.o.URL.Redacted(), "key", key(d), "for", t.bounds.wrong)
	}
}

// Size returns the size in bytes of a blob that the bucket has; ok is false if it has none,
// or one of another size than wanted, which is negative for any. What it says is not
// verified.
func (t *Tier) Size(ctx context.Context, d digest.Digest, wanted int64) (size int64, ok bool) {
	if t == nil || !t.circuit.asks() || t.doubts(d) != none {
		return -1, false
	}
	size, err := t.head(ctx, d)
	if err != nil && explain(err).status != http.StatusNotFound {
		_ = t.failed(ctx, err)
	}
	return size, size >= 0 && (wanted < 0 || size == wanted)
}

// head returns how many bytes the object of d has, negative if that is not known.
func (t *Tier) head(ctx context.Context, d digest.Digest) (size int64, err error) {
	w := newWatch(ctx, t.bounds.header)
	defer w.end()
	out, err := t.client.HeadObject(w.ctx, &s3.HeadObjectInput{Bucket: &t.bucket, Key: aws.String(key(d))})
	if err != nil || out.ContentLength == nil {
		return -1, w.cause(err)
	}
	return *out.ContentLength, nil
}

// body is the body of an object, or a part of it.
type body struct {
	io.ReadCloser
	*blob
	watch   *watch
	asker   context.Context
	missing int64 // bytes to come

	// Of the present stretch: how long the server was waited for, and what came.
	waited time.Duration
	got    int64
	failed bool
}

func (r *body) Read(p []byte) (int, error) {
	bounds := r.tier.bounds
	r.watch.within(bounds.stall)
	begun := time.Now()
	n, err := r.ReadCloser.Read(p)
	r.watch.pause()
	r.tier.o.Metrics.Moved(metrics.TierReceived, int64(n))
	r.missing, r.got, r.waited = r.missing-int64(n), r.got+int64(n), r.waited+time.Since(begun)
	switch {
	case r.missing <= 0:
		r.tier.circuit.worked()
		return n, err
	case err != nil:
		return n, r.broke(r.watch.cause(err))
	case r.waited >= bounds.stall:
		if r.got < int64(r.waited.Seconds()*float64(bounds.slowest)) {
			return n, r.broke(errSlow)
		}
		r.waited, r.got = 0, 0
	}
	return n, nil
}

// broke notes, once, that the transfer broke, and returns why.
func (r *body) broke(err error) error {
	if r.failed || r.asker.Err() != nil {
		return err
	}
	r.failed = true
	r.tier.o.Metrics.Read(metrics.TierFailed)
	if err == io.EOF { //nolint:errorlint // the end itself, too early
		err = io.ErrUnexpectedEOF
	}
	if r.breaks.Add(1) >= maxBreaks || !errors.Is(err, io.ErrUnexpectedEOF) {
		r.left.Store(true)
	}
	return r.tier.failed(r.asker, err)
}

func (r *body) Close() error {
	defer r.watch.end()
	return r.ReadCloser.Close()
}
