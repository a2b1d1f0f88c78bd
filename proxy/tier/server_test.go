package tier

import (
	"bytes"
	"crypto/rand"
	"net/url"
	"os"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"hubcap/e2e/testkit"
)

// TestServer writes to a real S3 server, of any dialect, and reads from it: the one at
// TEST_S3_URL, with the keys TEST_S3_ACCESS_KEY and TEST_S3_SECRET_KEY. The bucket is
// created if need be.
func TestServer(t *testing.T) {
	address := os.Getenv("TEST_S3_URL")
	if address == "" {
		t.Skip("TEST_S3_URL names no S3 server")
	}
	at, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, &fake{Bucket: testkit.NewBucket()}, func(o *Options, b *bounds) {
		o.URL, o.AccessKey, o.SecretKey = at, os.Getenv("TEST_S3_ACCESS_KEY"), os.Getenv("TEST_S3_SECRET_KEY")
		*b = defaultBounds()
		b.single, b.part = 8<<20, 5<<20 // S3 allows no smaller parts
	})
	if _, err := r.client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &r.bucket}); err != nil {
		t.Log("create the bucket:", err)
	}
	r.run()
	seed := make([]byte, 4)
	_, _ = rand.Read(seed)
	for i, size := range []int{0, 4, 3 << 20, 12 << 20} {
		body := append(bytes.Clone(seed), make([]byte, size)...)[:size]
		d := r.shelve(body)
		if _, err := r.read(r.Blob(d, -1), 0, -1); size > 0 && err == nil {
			t.Errorf("%d bytes: it is there before", size)
		}
		for _, how := range []string{"stored", "present"} {
			before := r.count("writes_total", "result", how)
			r.Keep(d)
			if size == 0 { // may be there of an earlier run
				continue
			}
			r.eventually("it is "+how, func() bool { return r.count("writes_total", "result", how) == before+1 })
		}
		if size == 0 {
			r.eventually("both are done", func() bool {
				return r.count("writes_total", "result", "stored")+r.count("writes_total", "result", "present") == 2
			})
		}
		got, err := r.read(r.Blob(d, int64(len(body))), 0, -1)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d: %d bytes of %d, %v", i, len(got), len(body), err)
		}
		if size > 1000 {
			if got, err = r.read(r.Blob(d, -1), 2, 100); err != nil || !bytes.Equal(got, body[2:102]) {
				t.Errorf("%d: a part: %d bytes, %v", i, len(got), err)
			}
		}
	}
	if s := r.Status(); s.Open || s.WriteFailure != "" {
		t.Errorf("%+v", s)
	}
	t.Logf("HEAD in place of If-None-Match: %v", r.headOnly.Load())
}
