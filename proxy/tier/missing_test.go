package tier

import (
	_ "crypto/sha512"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/testkit"
)

// listing reports whether a request is for a list.
func listing(q *http.Request) bool { return q.URL.Query().Has("list-type") }

// owns has the box own and hold n blobs, and returns them, the one that was used last first.
func (r *rig) owns(n int) (all []digest.Digest) {
	for range n {
		_, d := r.blob(kib + len(r.store.all))
		all = append(all, d)
	}
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	r.store.own = append(r.store.own, all...)
	return all
}

// has reports whether the bucket has all of some blobs.
func (f *fake) has(all []digest.Digest) bool {
	return !slices.ContainsFunc(all, func(d digest.Digest) bool { return f.object(d) == nil })
}

// TestMissing: what is held and not in the bucket is written, one blob at a time, that first
// that was used last. The bucket is asked for its list and for no blob, and nothing that it
// has is written.
func TestMissing(t *testing.T) {
	f := newFake(t)
	f.Page(2)
	f.Put("blobs/sha256/no-digest", []byte("x"))
	f.Put("blobs/sha512/other", []byte("x"))
	r := newRig(t, f, nil)
	own := r.owns(9)
	for i, d := range own {
		if i%3 == 0 {
			f.put(d, []byte("as it is"))
		}
	}
	f.put(digest.FromString("of another box"), []byte("x"))
	r.store.own = append(r.store.own, digest.SHA512.FromString("of another algorithm"))
	var mu sync.Mutex
	var written []string
	f.Fault(func(_ http.ResponseWriter, q *http.Request) bool {
		if q.Method == http.MethodPut {
			mu.Lock()
			defer mu.Unlock()
			written = append(written, path.Base(q.URL.Path))
		}
		return false
	})
	r.run()
	r.eventually("all are there", func() bool {
		return f.has(own) && r.Status().Missing == 0 && r.count("writes_total", "result", "stored") == 6
	})
	var want []string
	for i, d := range own {
		if i%3 != 0 {
			want = append(want, d.Encoded())
		}
	}
	if !slices.Equal(written, want) {
		t.Errorf("written %v, want %v", written, want)
	}
	if n := f.Count("GET /bucket"); n != 3 { // of five objects
		t.Errorf("%d lists", n)
	}
	if n := f.Count("HEAD"); n != 0 {
		t.Errorf("%d HEADs", n)
	}
	if s := r.Status(); s.Compared.IsZero() || s.NotCompared != "" {
		t.Errorf("%+v", s)
	}
	if n := strings.Count(r.log.String(), "lacks blobs"); n != 1 || !strings.Contains(r.log.String(), "blobs=6") {
		t.Error(r.log)
	}
	if size := unsafe.Sizeof(heldBlob{}); size != 40 {
		t.Errorf("a blob takes %d bytes", size)
	}
}

// TestMissingBehindNew: a blob that was just fetched does not wait for those that were there
// before.
func TestMissingBehindNew(t *testing.T) {
	f := newFake(t)
	r := newRig(t, f, nil)
	own := r.owns(3)
	begun, goOn := make(chan struct{}, 10), make(chan struct{})
	f.Fault(func(_ http.ResponseWriter, q *http.Request) bool {
		if q.Method == http.MethodPut && slices.ContainsFunc(own, func(d digest.Digest) bool { return strings.HasSuffix(q.URL.Path, d.Encoded()) }) {
			begun <- struct{}{}
			<-goOn
		}
		return false
	})
	r.run()
	<-begun
	r.eventually("two wait", func() bool { return r.Status().Missing == 2 })
	if s := r.Status(); s.Queue != 0 {
		t.Errorf("%+v", s)
	}
	_, d := r.blob(100 * kib)
	r.Keep(d)
	r.eventually("it is stored", func() bool { return f.object(d) != nil })
	if f.has(own[:1]) || len(begun) != 0 {
		t.Error("the others did not wait")
	}
	close(goOn)
	r.eventually("all are there", func() bool { return f.has(own) })
}

// TestMissingAgain: what the queue drops, and what expires in the bucket, is written after
// the next comparison.
func TestMissingAgain(t *testing.T) {
	f := newFake(t)
	r := newRig(t, f, func(_ *Options, b *bounds) { b.compare = 20 * time.Millisecond })
	own := r.owns(2)
	for range queued {
		r.Keep(own[0])
	}
	r.Keep(own[1])
	if s := r.Status(); s.Missing != 1 || !s.Compared.IsZero() {
		t.Errorf("%+v", s)
	}
	r.run()
	r.eventually("both are there", func() bool { return f.has(own) && r.Status().Missing == 0 })
	f.Remove(key(own[1]))
	r.eventually("it is there again", func() bool { return f.has(own) })
}

// TestMissingNotListed: where the bucket is not listed, it is not compared, which one line
// and the status say, and new blobs are written. It is tried again.
func TestMissingNotListed(t *testing.T) {
	refused := func(status int, code string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { testkit.RefuseS3(w, status, code) }
	}
	for name, tc := range map[string]struct {
		answer func(w http.ResponseWriter)
		says   string
	}{
		"unknown": {refused(501, "NotImplemented"), "501 NotImplemented"},
		"denied":  {refused(403, "AccessDenied"), "s3:ListBucket"},
		"broken":  {refused(500, "InternalError"), "500 InternalError"},
		"endless": {func(w http.ResponseWriter) {
			_, _ = w.Write([]byte("<ListBucketResult><NextContinuationToken>on</NextContinuationToken></ListBucketResult>"))
		}, "again and again"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.Fault(func(w http.ResponseWriter, q *http.Request) bool {
				if listing(q) {
					tc.answer(w)
				}
				return listing(q)
			})
			r := newRig(t, f, func(_ *Options, b *bounds) { b.compareAgain = 5 * time.Millisecond })
			own := r.owns(2)
			r.run()
			r.eventually("it is tried again", func() bool { return f.Count("GET /bucket") > 3 })
			if s := r.Status(); !strings.Contains(s.NotCompared, tc.says) || !strings.Contains(s.Words(), tc.says) || s.Open || !s.Compared.IsZero() {
				t.Errorf("%+v", s)
			}
			if n := strings.Count(r.log.String(), "is not compared"); n != 1 {
				t.Errorf("%d lines:\n%s", n, r.log)
			}
			_, d := r.blob(100 * kib)
			r.Keep(d)
			r.eventually("a new blob is written", func() bool { return f.object(d) != nil })
			if f.Count("PUT") != 1 {
				t.Error("more is written")
			}
			f.Fault(nil)
			r.eventually("the others are written", func() bool { return f.has(own) && r.Status().NotCompared == "" })
		})
	}
}

// TestMissingOfABucketThatFails: while the bucket fails, one line says so, and it is compared
// once it works.
func TestMissingOfABucketThatFails(t *testing.T) {
	f := newFake(t)
	f.Fault(func(w http.ResponseWriter, _ *http.Request) bool {
		testkit.RefuseS3(w, 403, "InvalidAccessKeyId")
		return true
	})
	r := newRig(t, f, nil)
	own := r.owns(2)
	r.run()
	r.eventually("it fails", func() bool { return r.Status().Open })
	if f.Count("GET /bucket") != 0 || strings.Contains(r.log.String(), "is not compared") {
		t.Error("it is listed:", r.log)
	}
	f.Fault(nil)
	r.eventually("all are there", func() bool { return f.has(own) })
}

// TestMissingReadOnly: a box that only reads compares nothing.
func TestMissingReadOnly(t *testing.T) {
	f := newFake(t)
	r := newRig(t, f, func(o *Options, _ *bounds) { o.ReadOnly = true })
	r.owns(2)
	r.run()
	r.eventually("the first look", func() bool { return strings.Contains(r.log.String(), "S3 tier") })
	if f.Count("GET /bucket")+f.Count("PUT") != 0 {
		t.Error("it lists or writes")
	}
}
