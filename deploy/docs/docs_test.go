// Package docs holds README.md and the documents against the repository: their
// links, and the names of variables, metrics and tests.
package docs

import (
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"hubcap/metrics"
	"hubcap/proxy/config"
)

const root = "../.."

// documents returns the text of README.md and of every document, by their path
// from the root.
func documents(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	add := func(path string) {
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		all[path] = string(text)
	}
	add("README.md")
	add("deploy/helm/hubcap/README.md")
	for _, dir := range []string{"deploy/docs", ".github"} {
		err := fs.WalkDir(os.DirFS(root), dir, func(path string, _ fs.DirEntry, err error) error {
			if filepath.Ext(path) == ".md" {
				add(path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

var (
	link   = regexp.MustCompile(`\[([^\]]*)\]\(([^)\s]+)\)`)
	fenced = regexp.MustCompile("(?ms)^```.*?^```$")
)

// TestLinks follows every relative link, to its anchor too.
func TestLinks(t *testing.T) {
	all := documents(t)
	for from, text := range all {
		for _, l := range link.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			to, err := url.Parse(l[2])
			if err != nil {
				t.Errorf("%s: %s: %v", from, l[2], err)
				continue
			}
			if to.IsAbs() {
				continue
			}
			path := from
			if to.Path != "" {
				path = filepath.Join(filepath.Dir(from), to.Path)
			}
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Errorf("%s: %s leads nowhere", from, l[2])
			} else if to.Fragment != "" && !slices.Contains(anchors(all[path]), to.Fragment) {
				t.Errorf("%s: %s: there is no such heading", from, l[2])
			}
		}
	}
}

// anchors returns the anchors that GitHub gives to the headings of a document.
func anchors(text string) (all []string) {
	for _, h := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		all = append(all, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, h[1]))
	}
	return all
}

// TestPromises looks for the tests that the README links to as evidence.
func TestPromises(t *testing.T) {
	readme := documents(t)["README.md"]
	_, promises, ok := strings.Cut(readme, "\n## What it promises\n")
	promises, _, _ = strings.Cut(promises, "\n## ")
	if !ok {
		t.Fatal("the README makes no promises")
	}
	for _, promise := range strings.Split(promises, "\n- ")[1:] {
		shown := link.FindAllStringSubmatch(promise, -1)
		if len(shown) == 0 {
			t.Errorf("no test shows %q", promise)
		}
		for _, l := range shown {
			source, err := os.ReadFile(filepath.Join(root, l[2]))
			if err != nil || !strings.Contains(string(source), "\nfunc "+l[1]+"(") {
				t.Errorf("there is no %s in %s", l[1], l[2])
			}
		}
	}
}

func TestReadmeIsShort(t *testing.T) {
	readme := documents(t)["README.md"]
	if len(readme) > 8<<10 {
		t.Errorf("the README has %d bytes", len(readme))
	}
	for _, command := range []string{"go run .", "go test ./..."} {
		if !strings.Contains(readme, command) {
			t.Errorf("the README lacks %s", command)
		}
	}
}

// TestNamesExist holds the names of variables and metrics against the code.
// The changelog and the records of decisions may name what is gone.
func TestNamesExist(t *testing.T) {
	var variables []string
	for _, v := range config.Variables() {
		variables = append(variables, v.Name)
	}
	families, err := metrics.Families()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		names = append(names, f.Series()...)
	}
	number := regexp.MustCompile(`_\d+_`)
	for path, text := range documents(t) {
		if path == "deploy/docs/changelog.md" {
			continue
		}
		for _, name := range regexp.MustCompile(`HUBCAP_[A-Z0-9_]+(?:<n>_[A-Z_]+)?`).FindAllString(text, -1) {
			general := number.ReplaceAllString(name, "_<n>_")
			if strings.HasSuffix(name, "_") { // of a marker, or of a family
				continue
			}
			if !slices.Contains(variables, general) && !slices.Contains(variables, strings.TrimSuffix(general, "_FILE")) {
				t.Errorf("%s: there is no variable %s", path, name)
			}
		}
		for _, name := range regexp.MustCompile(`hubcap_[a-z_]+`).FindAllString(text, -1) {
			if !slices.Contains(names, name) {
				t.Errorf("%s: there is no metric %s", path, name)
			}
		}
	}
}

// TestReadmeDefaults holds the defaults in the README's table against the code,
// as far as they are values and no sentences.
func TestReadmeDefaults(t *testing.T) {
	defaults := map[string]string{}
	for _, v := range config.Variables() {
		defaults[v.Name] = v.Default
	}
	rows := regexp.MustCompile("(?m)^\\| `(HUBCAP_[A-Z0-9_<>n]+)` \\| `([^`]+)` \\|").FindAllStringSubmatch(documents(t)["README.md"], -1)
	if len(rows) == 0 {
		t.Error("there is no table of variables")
	}
	for _, row := range rows {
		if defaults[row[1]] != row[2] {
			t.Errorf("%s: %s, want %s", row[1], row[2], defaults[row[1]])
		}
	}
}
