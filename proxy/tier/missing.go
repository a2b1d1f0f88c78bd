package tier

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/opencontainers/go-digest"
)

// missing is what the bucket lacks of what this box owns and holds: what was held before
// there was a bucket, was too much for the queue, was not taken, or has expired there.
type missing struct {
	mu       sync.Mutex
	blobs    int       // that are known to be missing
	compared time.Time // when it was last found out; zero for never
	why      error     // it could not be found out the last time; nil if it could
}

// heldBlob is a blob of a box, which may hold a million of them: 40 bytes each. Digests of
// other algorithms, which hardly a registry has, are left out.
type heldBlob struct {
	hash    [sha256.Size]byte
	used    uint32 // last, in seconds since 1970
	present bool   // the bucket has it
}

func (b *heldBlob) digest() digest.Digest {
	return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(b.hash[:]))
}

// writeMissing has the blobs written that the bucket lacks, those used last first, and each
// only when a writer has nothing else to do. It compares at the start, and rarely after it.
func (t *Tier) writeMissing(ctx context.Context, store Store) {
	for t.circuit.await(ctx) == nil {
		lacking, err := t.compare(ctx, store)
		if ctx.Err() != nil {
			return
		}
		if err != nil && t.Status().Open {
			continue // which says what is wrong
		}
		pause := t.bounds.compare
		if t.noteCompared(len(lacking), err); err != nil {
			pause = t.bounds.compareAgain
		}
		for i := range lacking {
			select {
			case t.older <- lacking[i].digest():
				t.missing.add(-1)
			case <-ctx.Done():
				return
			}
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// compare returns what the bucket lacks, in the order in which it is to be written.
func (t *Tier) compare(ctx context.Context, store Store) ([]heldBlob, error) {
	var all []heldBlob
	for d, used := range store.OwnBlobs(ctx) {
		hash, err := hex.DecodeString(d.Encoded())
		if err == nil && d.Algorithm() == digest.SHA256 && len(hash) == sha256.Size {
			all = append(all, heldBlob{hash: [sha256.Size]byte(hash), used: uint32(used.Unix())}) //nolint:gosec // until 2106
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	if err := t.check(ctx); err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b heldBlob) int { return bytes.Compare(a.hash[:], b.hash[:]) })
	err := t.list(ctx, func(hash []byte) {
		at, found := slices.BinarySearchFunc(all, hash, func(b heldBlob, hash []byte) int { return bytes.Compare(b.hash[:], hash) })
		if found {
			all[at].present = true
		}
	})
	if err != nil {
		return nil, err
	}
	all = slices.Clone(slices.DeleteFunc(all, func(b heldBlob) bool { return b.present })) // most of it may be free now
	slices.SortFunc(all, func(a, b heldBlob) int { return cmp.Compare(b.used, a.used) })
	return all, nil
}

var errEndless = &failure{what: "it lists the same objects again and again"}

// list calls visit with the hash of each object of the bucket. A request brings up to a
// thousand of them, which a server may have to look for.
func (t *Tier) list(ctx context.Context, visit func(hash []byte)) error {
	prefix := "blobs/" + string(digest.SHA256) + "/"
	in := &s3.ListObjectsV2Input{Bucket: &t.bucket, Prefix: &prefix}
	for {
		w := newWatch(ctx, t.bounds.stored)
		out, err := t.client.ListObjectsV2(w.ctx, in)
		err = w.cause(err)
		w.end()
		if err != nil {
			return err
		}
		for _, object := range out.Contents {
			name, _ := strings.CutPrefix(aws.ToString(object.Key), prefix)
			if hash, err := hex.DecodeString(name); err == nil {
				visit(hash)
			}
		}
		switch next := aws.ToString(out.NextContinuationToken); next {
		case "":
			return nil
		case aws.ToString(in.ContinuationToken):
			return errEndless
		default:
			in.ContinuationToken = &next
		}
	}
}

// noteCompared notes what a comparison has found.
func (t *Tier) noteCompared(lacking int, err error) {
	m := &t.missing
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		f := explain(err)
		if m.why == nil {
			t.o.Log.Warn("the bucket of the S3 tier is not compared with what is held; new blobs are written all the same", "bucket", t.o.URL.Redacted(), "err", f)
		}
		m.why = f
		return
	}
	m.blobs, m.compared, m.why = lacking, t.o.Now(), nil
	if lacking > 0 {
		t.o.Log.Info("the S3 tier lacks blobs that this box holds; they are written, behind new ones", "bucket", t.o.URL.Redacted(), "blobs", lacking)
	}
}

// add notes n more missing blobs.
func (m *missing) add(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs = max(m.blobs+n, 0)
}

func (m *missing) status(s *Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Missing, s.Compared = m.blobs, m.compared
	if m.why != nil {
		s.NotCompared = m.why.Error()
	}
}
