package e2e

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"hubcap/e2e/testkit"
)

// TestDoctorBesideAMisconfiguredClient shows that a real client that speaks TLS to
// the plain port meets the error that the documents name, that the log and the
// doctor tell which client it is, and what the doctor says of a Docker Hub with TLS
// and a token service. Nothing but the client's mistake is wrong, and no pull is made.
func TestDoctorBesideAMisconfiguredClient(t *testing.T) {
	need(t, "skopeo")
	s := newSite(t)
	dataDir := scratch(t)
	h := s.startHubcap(t, dataDir)
	k := skopeo{newTool(t, s, "")}
	_, err := run(k.ns, k.command("skopeo", "--insecure-policy", "inspect", "--raw", "docker://"+mirror+"/library/any"))
	if err == nil || !strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		t.Fatalf("the client says %v", err)
	}
	const told = `127.0.0.1 speaks TLS to the plain port: "insecure-registries" there, or HUBCAP_TLS_CERT_FILE here`
	for deadline := time.Now().Add(time.Minute); h.metric(t, "hubcap_problems") == 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is no problem")
		}
	}
	if log := string(h.log.Bytes()); !strings.Contains(strings.ReplaceAll(log, `\"`, `"`), told) {
		t.Errorf("the log does not say so:\n%s", tail([]byte(log)))
	}
	doctor := exec.Command(testkit.Hubcap(t, ".."), "doctor")
	doctor.Env = environment("HUBCAP_LISTEN="+mirror, "HUBCAP_ADMIN_LISTEN="+admin, "HUBCAP_DATA_DIR="+dataDir, "HUBCAP_CACHE_SIZE=4GiB", "HUBCAP_MIN_FREE=64MiB",
		"HUBCAP_UPSTREAM_0_HOST="+dockerHub, "HUBCAP_UPSTREAM_0_PRIVATE_CIDRS=127.0.0.0/8", "HUBCAP_UPSTREAM_0_CA_FILE="+s.caFile)
	report := mustRun(t, s.ns, doctor) // the other registries have no names here, which is a warning
	for _, line := range []string{
		"ok       hubcap         runs", "ok       clock          right", "docker.io answers in ", "warning  problem        " + told,
		"ok       port           the mirror port " + mirror + " is hubcap's",
	} {
		if !strings.Contains(report, line) {
			t.Errorf("want %q:\n%s", line, report)
		}
	}
	for _, r := range s.hub.Log() {
		if r.Method == "GET" && strings.Contains(r.Path, "/manifests/") {
			t.Errorf("a pull: %s", r.Path)
		}
	}
}
