package server

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/fakehub"
	"hubcap/e2e/testkit"
	"hubcap/proxy/admin/api"
)

// TestTierIsShown has a bucket that refuses the keys at the start and works later: API,
// page, problems and metrics say so, and pulls go on.
func TestTierIsShown(t *testing.T) {
	t.Parallel() // it waits for the bucket to be tried again
	bucket := testkit.NewBucket()
	bucket.Fault(func(w http.ResponseWriter, _ *http.Request) bool {
		testkit.RefuseS3(w, http.StatusForbidden, "InvalidAccessKeyId")
		return true
	})
	s3 := httptest.NewServer(bucket)
	defer s3.Close()
	hub := fakehub.Start(t, fakehub.Options{})
	layer := hub.AddBlob("library/demo", fakehub.RandomBlob(1, 100_000))
	dir := t.TempDir()
	b := start(t, append(behind(t, hub), "HUBCAP_DATA_DIR="+dir,
		"HUBCAP_S3_URL="+s3.URL+"/bucket", "HUBCAP_S3_ACCESS_KEY=hidden", "HUBCAP_S3_SECRET_KEY=hidden")...)
	statusOf := func() *api.Tier {
		var status api.Status
		if code := b.askAdmin(dir, "/api/v1/status", &status); code != http.StatusOK || status.Tier == nil {
			t.Fatal(code, status.Tier)
		}
		return status.Tier
	}
	wait := func(what string, done func() bool) {
		t.Helper()
		for end := time.Now().Add(soon); !done(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("never: %s\n%s", what, b.log.String())
			}
		}
	}
	wait("the circuit is open", func() bool { return statusOf().Open })
	wait("it is a problem", func() bool {
		all := b.problemsOf(dir)
		return len(all) == 1 && all[0].ID == "tier-fails" && strings.Contains(all[0].What, "HUBCAP_S3_ACCESS_KEY")
	})
	b.get(b.mirror, "/v2/library/demo/blobs/"+layer.String())
	wait("it waits to be written", func() bool { return statusOf().Queue <= 1 && b.series()["hubcap_tier_circuit_open"] == "1" })
	if _, _, page := b.call(dir, "GET", "/upstreams"); !strings.Contains(string(page), "S3 tier") || strings.Contains(string(page), "hidden") {
		t.Error("the page does not show it")
	}
	bucket.Fault(nil)
	wait("it is asked again, and written", func() bool {
		return !statusOf().Open && bucket.Object("blobs/sha256/"+layer.Encoded()) != nil && b.series()["hubcap_tier_circuit_open"] == "0" &&
			b.series()["hubcap_tier_missing"] == "0" && statusOf().Missing == 0
	})
	if strings.Contains(b.log.String(), "hidden") {
		t.Error("the log has a key")
	}
}
