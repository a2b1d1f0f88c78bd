package tier

import (
	"context"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/metrics"
)

// Bounds of S3.
const (
	maxParts    = 10_000
	contentType = "application/octet-stream"
)

// write writes one blob, unless it is in the bucket already. One that is not held any
// more is left out.
func (t *Tier) write(ctx context.Context, store Store, d digest.Digest) (metrics.TierWrite, error) {
	f, err := store.OpenPublic(ctx, d)
	if err != nil {
		return metrics.TierGone, nil //nolint:nilerr // it was evicted, or its file is damaged
	}
	defer f.Close()
	doubt := t.doubts(d)
	if f.Size <= t.bounds.single && doubt == none && !t.headOnly.Load() {
		switch err := t.put(ctx, d, f, aws.String("*")); {
		case err == nil:
			return t.stored(d, f.Size), nil
		case isPresent(err):
			return metrics.TierPresent, nil
		case !isUnknown(err):
			return 0, err
		}
		t.headOnly.Store(true)
	}
	if doubt != ofBytes {
		if size, _ := t.head(ctx, d); size == f.Size {
			t.suspects.Remove(d)
			return metrics.TierPresent, nil
		}
	}
	if f.Size <= t.bounds.single {
		err = t.put(ctx, d, f, nil)
	} else {
		err = t.putParts(ctx, d, f)
	}
	if err != nil {
		return 0, err
	}
	return t.stored(d, f.Size), nil
}

// stored notes that the object of d is the blob now, of size bytes.
func (t *Tier) stored(d digest.Digest, size int64) metrics.TierWrite {
	t.suspects.Remove(d)
	t.o.Metrics.Moved(metrics.TierSent, size)
	return metrics.TierStored
}

// put writes a blob in one request. Without TLS the request is signed with the hash of
// its body, which is the digest.
func (t *Tier) put(ctx context.Context, d digest.Digest, f *cache.File, ifNoneMatch *string) error {
	w := newWatch(ctx, t.bounds.stall)
	defer w.end()
	in := &s3.PutObjectInput{
		Bucket: &t.bucket, Key: aws.String(key(d)), IfNoneMatch: ifNoneMatch, ContentType: aws.String(contentType),
		Body: t.sending(w, f, 0, f.Size), ContentLength: &f.Size,
	}
	signed := w.ctx
	if t.o.URL.Scheme != "https" && d.Algorithm() == digest.SHA256 {
		signed = v4.SetPayloadHash(signed, d.Encoded())
	}
	_, err := t.client.PutObject(signed, in)
	return w.cause(err)
}

// putParts writes a large blob in several requests. What it leaves after a failure is
// given up, or is for the bucket's lifecycle.
func (t *Tier) putParts(ctx context.Context, d digest.Digest, f *cache.File) error {
	object := aws.String(key(d))
	w := newWatch(ctx, t.bounds.stored)
	defer w.end()
	begun, err := t.client.CreateMultipartUpload(w.ctx, &s3.CreateMultipartUploadInput{Bucket: &t.bucket, Key: object, ContentType: aws.String(contentType)})
	if err != nil {
		return w.cause(err)
	}
	parts, err := t.sendParts(ctx, object, begun.UploadId, f)
	if err == nil {
		w.within(t.bounds.stored)
		_, err = t.client.CompleteMultipartUpload(w.ctx, &s3.CompleteMultipartUploadInput{
			Bucket: &t.bucket, Key: object, UploadId: begun.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
		})
		err = w.cause(err)
	}
	if err != nil {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.bounds.header)
		defer cancel()
		_, _ = t.client.AbortMultipartUpload(end, &s3.AbortMultipartUploadInput{Bucket: &t.bucket, Key: object, UploadId: begun.UploadId})
	}
	return err
}

// sendParts sends the parts of a large blob, one after the other.
func (t *Tier) sendParts(ctx context.Context, object, upload *string, f *cache.File) (parts []types.CompletedPart, err error) {
	size := max(t.bounds.part, f.Size/maxParts+1)
	for off := int64(0); off < f.Size; off += size {
		number := aws.Int32(int32(len(parts)) + 1) //nolint:gosec // at most maxParts
		n := min(size, f.Size-off)
		w := newWatch(ctx, t.bounds.stall)
		sent, err := t.client.UploadPart(w.ctx, &s3.UploadPartInput{
			Bucket: &t.bucket, Key: object, UploadId: upload, PartNumber: number, Body: t.sending(w, f, off, n), ContentLength: &n,
		})
		err = w.cause(err)
		w.end()
		if err != nil {
			return nil, err
		}
		parts = append(parts, types.CompletedPart{ETag: sent.ETag, PartNumber: number})
	}
	return parts, nil
}

// sending returns n bytes of a file as a request's body: the server has to go on taking
// them, and to answer once it has all.
func (t *Tier) sending(w *watch, f io.ReaderAt, off, n int64) io.ReadSeeker {
	return &sending{SectionReader: io.NewSectionReader(f, off, n), watch: w, stall: t.bounds.stall, stored: t.bounds.stored}
}

type sending struct {
	*io.SectionReader
	watch         *watch
	stall, stored time.Duration
}

// Read implements io.Reader.
func (s *sending) Read(p []byte) (int, error) {
	n, err := s.SectionReader.Read(p)
	if at, _ := s.Seek(0, io.SeekCurrent); at == s.Size() {
		s.watch.within(s.stored)
	} else {
		s.watch.within(s.stall)
	}
	return n, err
}
