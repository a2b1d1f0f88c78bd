package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// system are the programs that the tests themselves need, to make a namespace and to build hubcap.
var system = []string{"sh", "ip", "mount", "mkdir", "cat", "cp", "go", "gcc"}

// clientless are the tests that need no client.
const clientless = "^(TestBoxes(ColdImage|Listed|OwnerFails|Partition|Roll)|TestCanary|TestDebianImage|TestImagesAreWhole|TestStatementsAreShown|TestWithoutClients)$"

// TestWithoutClients runs the tests of this package where no client is installed: each that needs one says which, and none fails.
func TestWithoutClients(t *testing.T) {
	newNamespace(t) // or there is nothing to be seen
	bin := scratch(t)
	for _, name := range system {
		if program, err := exec.LookPath(name); err == nil {
			if err := os.Symlink(program, filepath.Join(bin, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	again := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.skip="+clientless)
	again.Env = append(os.Environ(), "PATH="+bin, "TEST_E2E=", "TEST_E2E_CLIENTS="+bin)
	out, err := again.CombinedOutput()
	if err != nil {
		t.Errorf("without clients: %v\n%s", err, tail(out))
	}
	for _, name := range unskipped(string(out)) {
		t.Errorf("%s passes without a client: it is to skip, or belongs in the list of those that need none", name)
	}
	for _, name := range []string{"dockerd", "podman", "skopeo", "crane", "buildah", "containerd", "regctl", "helm", "buildkitd", "docker-registry", "versitygw"} {
		if !strings.Contains(string(out), name+" is not installed\n") {
			t.Errorf("no test says that %s is missing", name)
		}
	}
}

// verdict is a line of -test.v that says what became of a test.
var verdict = regexp.MustCompile(`(?m)^ *--- (PASS|FAIL|SKIP): (\S+) `)

// unskipped are the tests that neither were skipped nor have a subtest that was.
func unskipped(log string) (names []string) {
	all := verdict.FindAllStringSubmatch(log, -1)
	for _, one := range all {
		skips := false
		for _, other := range all {
			skips = skips || other[1] == "SKIP" && strings.HasPrefix(other[2]+"/", one[2]+"/")
		}
		if !skips {
			names = append(names, one[2])
		}
	}
	return names
}
