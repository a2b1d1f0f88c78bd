package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestS3 has each mistake about the bucket end with a line that names the variable and
// what is allowed, and no secret.
func TestS3(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("hidden\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const bucket = "HUBCAP_S3_URL=https://s3.lan:9000/hubcap/"
	for _, tc := range []struct {
		environ []string
		refused string
	}{
		{environ: []string{bucket}},
		{environ: []string{bucket, "HUBCAP_S3_ACCESS_KEY=id", "HUBCAP_S3_SECRET_KEY_FILE=" + file, "HUBCAP_S3_WRITE=false"}},
		{[]string{bucket, "HUBCAP_S3_ACCESS_KEY=hidden"}, "HUBCAP_S3_ACCESS_KEY and HUBCAP_S3_SECRET_KEY: set both or none"},
		{[]string{bucket, "HUBCAP_S3_SECRET_KEY=hidden"}, "set both or none"},
		{[]string{"HUBCAP_S3_URL=s3.lan/hubcap"}, "HUBCAP_S3_URL=s3.lan/hubcap: want the address of a bucket"},
		{[]string{"HUBCAP_S3_URL=https://s3.lan"}, "want the address of a bucket"},
		{[]string{"HUBCAP_S3_URL=https://s3.lan/a/b"}, "want the address of a bucket"},
		{[]string{"HUBCAP_S3_URL=s3://hubcap"}, "want the address of a bucket"},
		{[]string{"HUBCAP_S3_URL=https://id:hidden@s3.lan/hubcap"}, "want HUBCAP_S3_ACCESS_KEY and HUBCAP_S3_SECRET_KEY"},
		{[]string{bucket, "HUBCAP_S3_WRITE=no"}, "HUBCAP_S3_WRITE=no"},
		{[]string{"HUBCAP_S3_WRITE=false"}, "HUBCAP_S3_WRITE=false: want HUBCAP_S3_URL to be set too"},
		{[]string{"HUBCAP_S3_ACCESS_KEY=hidden", "HUBCAP_S3_SECRET_KEY=hidden"}, "want HUBCAP_S3_URL to be set too"},
	} {
		c, err := Load(tc.environ)
		if tc.refused == "" {
			if err != nil || c.S3URL.String() != "https://s3.lan:9000/hubcap" || len(tc.environ) > 1 && (c.S3SecretKey != "hidden" || c.S3Write) {
				t.Errorf("%s: %v, %s", tc.environ, err, c.S3URL)
			}
			if text := fmt.Sprintf("%v %+v", c, c); strings.Contains(text, "hidden") {
				t.Error("a secret is shown")
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tc.refused) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v, want %q", tc.environ, err, tc.refused)
		}
	}
}
