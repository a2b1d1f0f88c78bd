package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hubcap/e2e/testkit"
)

// TestUnitIsSupervised: hubcap tells systemd when it is ready and for how long it
// goes on answering, and has more time to end than it gives its clients.
func TestUnitIsSupervised(t *testing.T) {
	unit := statements(t, "hubcap.service")
	for _, want := range []string{"Type=notify", "WatchdogSec=60", "Restart=always"} {
		if !slices.Contains(unit, want) {
			t.Errorf("the unit lacks %s", want)
		}
	}
	if slices.ContainsFunc(unit, func(line string) bool { return strings.HasPrefix(line, "NotifyAccess=") }) {
		t.Error("others than the main process may notify systemd")
	}
}

// TestUnitIsUnderstood has systemd read the unit.
func TestUnitIsUnderstood(t *testing.T) {
	testkit.NeedPrograms(t, "systemd-analyze")
	unit := filepath.Join(t.TempDir(), "hubcap.service")
	text := strings.Replace(read(t, "hubcap.service"), "ExecStart=/usr/local/bin/hubcap", "ExecStart=/bin/true", 1)
	if err := os.WriteFile(unit, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	// Nothing is said of a unit without mistakes.
	if out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}
