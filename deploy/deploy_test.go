// Package deploy holds what hubcap is run with, and what its clients are
// pointed at it with.
package deploy

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hubcap/e2e/testkit"
	"hubcap/proxy/config"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main{M: m}.Run()) }

// mirror is what the client files call the box.
const mirror = "hubcap:5000"

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// statements are the lines of a file without comments and blank ones.
func statements(t *testing.T, path string) []string {
	t.Helper()
	var all []string
	for line := range strings.Lines(read(t, path)) {
		line = strings.TrimRight(regexp.MustCompile(`(^|\s)#.*`).ReplaceAllString(line, ""), " \n")
		if line != "" {
			all = append(all, line)
		}
	}
	return all
}

// instructions are those of the Dockerfile's last stage, and of the one
// before it.
func instructions(t *testing.T) (build, final []string) {
	t.Helper()
	text := strings.ReplaceAll(strings.Join(statements(t, "../Dockerfile"), "\n"), "\\\n", "")
	before, after, ok := strings.Cut(text, "\nFROM ")
	if !ok || strings.Contains(after, "\nFROM ") {
		t.Fatal("the Dockerfile has not two stages")
	}
	return strings.Split(before, "\n"), strings.Split("FROM "+after, "\n")
}

func TestDockerfileBuild(t *testing.T) {
	build, _ := instructions(t)
	goVersion := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "../go.mod"))
	if want := "FROM golang:" + goVersion[1] + " AS build"; build[0] != want {
		t.Errorf("begins with %q, want %q", build[0], want)
	}
	if !slices.ContainsFunc(build, func(line string) bool {
		return strings.HasPrefix(line, "RUN CGO_ENABLED=0 go build -trimpath -o /out/hubcap .")
	}) {
		t.Error("want a static build without paths of the machine that built it")
	}
	modules, sources := slices.Index(build, "RUN go mod download"), slices.Index(build, "COPY . .")
	if modules < 0 || sources < modules {
		t.Error("the modules are downloaded anew whenever a source changes")
	}
}

func TestDockerfileImage(t *testing.T) {
	_, final := instructions(t)
	for _, want := range []string{
		"FROM scratch",
		"COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt",
		"COPY --from=build /out/hubcap /hubcap",
		"COPY --from=build --chown=65532:65532 /out/data /data",
		"USER 65532:65532",
		"VOLUME /data",
		"EXPOSE 5000 5001",
		`ENTRYPOINT ["/hubcap"]`,
	} {
		if !slices.Contains(final, want) {
			t.Errorf("the Dockerfile lacks %q", want)
		}
	}
	if data, volume := slices.Index(final, "COPY --from=build --chown=65532:65532 /out/data /data"), slices.Index(final, "VOLUME /data"); data > volume {
		t.Error("what is put into a volume behind VOLUME is lost, the owner too")
	}
	if i := slices.IndexFunc(final, func(line string) bool { return strings.HasPrefix(line, "HEALTHCHECK ") }); i < 0 || !strings.HasSuffix(final[i], ` CMD ["/hubcap", "healthcheck"]`) {
		t.Error("no healthcheck by hubcap itself; there is no shell")
	}
	if slices.ContainsFunc(final, func(line string) bool { return strings.HasPrefix(line, "RUN ") }) {
		t.Error("nothing can be run in an image from scratch")
	}
	text := strings.Join(final, "\n")
	for _, label := range []string{"title", "description", "licenses"} {
		if !regexp.MustCompile(`org\.opencontainers\.image\.` + label + `="[^"]+"`).MatchString(text) {
			t.Errorf("no label %s", label)
		}
	}
}

// The image's settings are variables of hubcap, and the ports it exposes are
// the default ones.
func TestDockerfileAgreesWithHubcap(t *testing.T) {
	_, final := instructions(t)
	var environ []string
	for _, line := range final {
		if rest, ok := strings.CutPrefix(line, "ENV "); ok {
			environ = append(environ, strings.Fields(rest)...)
		}
	}
	if want := []string{"HUBCAP_DATA_DIR=/data"}; !slices.Equal(environ, want) {
		t.Errorf("the image sets %q, want %q", environ, want)
	}
	c := load(t, environ)
	if c.DataDir != "/data" || c.Listen != ":5000" || c.AdminListen != "127.0.0.1:5001" {
		t.Errorf("the image listens on %s and %s and keeps %s", c.Listen, c.AdminListen, c.DataDir)
	}
}

// load is the configuration that an environment comes to, without warnings.
func load(t *testing.T, environ []string) config.Config {
	t.Helper()
	c, err := config.Load(environ)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) > 0 {
		t.Errorf("warnings: %q", c.Warnings)
	}
	return c
}

// The build needs every file that git knows, git's own among them.
func TestDockerignore(t *testing.T) {
	for _, line := range statements(t, "../.dockerignore") {
		if !slices.Contains([]string{"/hubcap", "/data/", "**/*.test", "**/*.out"}, line) {
			t.Errorf("%q is left out of the build", line)
		}
	}
}

func TestCompose(t *testing.T) {
	lines := statements(t, "compose.yaml")
	for i, line := range lines {
		if strings.Contains(line, "\t") {
			t.Errorf("line %d: a tab is no YAML", i+1)
		}
		if indent := len(line) - len(strings.TrimLeft(line, " ")); indent%2 != 0 {
			t.Errorf("%q is indented by %d", line, indent)
		}
	}
	got := block(lines, "services:", "  hubcap:")
	for _, want := range []string{
		"    image: hubcap",
		"    build: ..",
		"    restart: unless-stopped",
		"    read_only: true",
		"    cap_drop: [ALL]",
		`    security_opt: ["no-new-privileges:true"]`,
	} {
		if !slices.Contains(got, want) {
			t.Errorf("the service lacks %q", want)
		}
	}
	for key, want := range map[string][]string{
		"    environment:": {`      HUBCAP_ADMIN_LISTEN: ":5001"`, "      HUBCAP_ADMIN_NAMES: hubcap"},
		"    ports:":       {`      - "5000:5000"`, `      - "127.0.0.1:5001:5001"`},
		"    volumes:":     {`      - data:/data`},
	} {
		if found := block(got, key); !slices.Equal(found, want) {
			t.Errorf("%s %q, want %q", strings.TrimSpace(key), found, want)
		}
	}
	if slices.ContainsFunc(got, func(line string) bool { return strings.HasPrefix(line, "    profiles:") }) {
		t.Error("hubcap starts with a profile only")
	}
	if slices.ContainsFunc(got, func(line string) bool { return strings.HasPrefix(line, "    healthcheck:") }) {
		t.Error("the image's healthcheck is overridden")
	}
	c, err := config.Load([]string{"HUBCAP_DATA_DIR=/data", "HUBCAP_ADMIN_LISTEN=:5001"})
	if err != nil || len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "HUBCAP_ADMIN_TLS_CERT_FILE") { // of the admin port without TLS
		t.Errorf("%v, warnings %q", err, c.Warnings)
	}
	if c.Listen != ":5000" || c.AdminListen != ":5001" {
		t.Errorf("it listens on %s and %s", c.Listen, c.AdminListen)
	}
}

// block are the lines below a line, by indentation; several lines lead down.
func block(lines []string, path ...string) []string {
	for _, head := range path {
		i := slices.Index(lines, head)
		if i < 0 {
			return nil
		}
		indent := len(head) - len(strings.TrimLeft(head, " "))
		lines = lines[i+1:]
		if end := slices.IndexFunc(lines, func(line string) bool { return len(line)-len(strings.TrimLeft(line, " ")) <= indent }); end >= 0 {
			lines = lines[:end]
		}
	}
	return lines
}

func TestDockerDaemon(t *testing.T) {
	var got map[string][]string
	if err := json.Unmarshal([]byte(read(t, "clients/daemon.json")), &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || !slices.Equal(got["registry-mirrors"], []string{"http://" + mirror}) {
		t.Errorf("got %v", got)
	}
}

// The daemon of a site with a registry of its own asks the port of that registry
// before the one of Docker Hub.
func TestDockerDaemonOfASiteWithARegistry(t *testing.T) {
	c := load(t, statements(t, "clients/own-registry/hubcap.env"))
	var got map[string][]string
	if err := json.Unmarshal([]byte(read(t, "clients/own-registry/daemon.json")), &got); err != nil {
		t.Fatal(err)
	}
	if len(c.Mirrors) != 1 || c.Mirrors[0].Upstream == c.DefaultUpstream || len(got) != 1 ||
		!slices.Equal(got["registry-mirrors"], []string{"http://hubcap" + string(c.Mirrors[0].Address), "http://" + mirror}) {
		t.Errorf("the daemon asks %v, and hubcap listens at %+v", got, c.Mirrors)
	}
}

// TestUnitIsConfined holds the unit against systemd's own measure of what a
// service could still do: 0 to 100, where 100 is an ordinary one.
func TestUnitIsConfined(t *testing.T) {
	testkit.NeedPrograms(t, "systemd-analyze")
	out, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=yes", "--threshold=20", "hubcap.service").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestUnitNeverGivesUp: with systemd's default, five failures within ten seconds
// of boot would be the end.
func TestUnitNeverGivesUp(t *testing.T) {
	unit, _, _ := strings.Cut(strings.Join(statements(t, "hubcap.service"), "\n"), "[Service]")
	if !strings.Contains(unit, "\nStartLimitIntervalSec=0\n") {
		t.Error("the unit is given up after some failures")
	}
}
