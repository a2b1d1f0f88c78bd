// Command gen writes the tables of variables, metrics, mistakes and problems and the
// list of commands into the documents. They come from the code: the tags of
// proxy/config, the Help texts of metrics, proxy/advice, the kinds of
// proxy/problems and the commands of proxy/cli.
//
//	go generate ./deploy/docs/gen
package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hubcap/metrics"
	"hubcap/proxy/advice"
	"hubcap/proxy/cli"
	"hubcap/proxy/config"
	"hubcap/proxy/problems"
)

//go:generate go run . ..

// end is the line after a generated table; begin(name) is the line before it.
const end = "<!-- /generated -->\n"

func begin(name string) string { return "<!-- generated: " + name + " -->\n" }

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gen <directory of the documents>")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	documents, err := tables()
	if err != nil {
		return err
	}
	for name, tables := range documents {
		path := filepath.Join(dir, name)
		old, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text, err := insert(string(old), tables)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// tables returns the generated tables by document and name.
func tables() (map[string]map[string]string, error) {
	families, err := metrics.Families()
	if err != nil {
		return nil, err
	}
	variables := make(map[string]string)
	for _, v := range config.Variables() {
		name := "general"
		if prefix, _, numbered := strings.Cut(v.Name, "<n>_"); numbered {
			name = prefix
		} else if slices.Contains(config.ClientVariables(), v) {
			name = "of commands"
		}
		if variables[name] == "" {
			variables[name] = "| variable | default | meaning |\n|---|---|---|\n"
		}
		variables[name] += fmt.Sprintf("| `%s` | %s | %s |\n", v.Name, defaultOf(v), cell(v.Means))
	}
	return map[string]map[string]string{
		"commands.md":      {"commands": commandSections(cli.Command(cli.Options{}))},
		"configuration.md": variables,
		"metrics.md":       {"metrics": metricsTable(families)},
		"operation.md":     {"mistakes": mistakesTable(), "problems": problemsTable()},
		"runbook.md":       {"problems": problemSections()},
	}, nil
}

func defaultOf(v config.Variable) string {
	if v.Default == "" || strings.Contains(v.Default, " ") {
		return cell(v.Default)
	}
	return "`" + v.Default + "`"
}

func metricsTable(families []metrics.Family) string {
	var t strings.Builder
	t.WriteString("| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, f := range families {
		var labels []string
		for _, l := range f.Labels {
			label := "`" + l.Name + "`"
			if len(l.Values) > 0 {
				label += ": " + strings.Join(l.Values, ", ")
			}
			labels = append(labels, label)
		}
		fmt.Fprintf(&t, "| `%s` | %s | %s | %s |\n", f.Name, f.Type, cell(strings.Join(labels, "; ")), cell(f.Help))
	}
	return t.String()
}

func mistakesTable() string {
	var t strings.Builder
	t.WriteString("| mistake | what hubcap says | where |\n|---|---|---|\n")
	for _, m := range advice.Mistakes() {
		fmt.Fprintf(&t, "| %s | `%s` | %s |\n", m.Name, m.Text, m.Where)
	}
	return t.String()
}

func problemsTable() string {
	var t strings.Builder
	t.WriteString("| problem | severity | there is one when |\n|---|---|---|\n")
	for _, k := range problems.Kinds() {
		fmt.Fprintf(&t, "| [%s](runbook.md#%s) | %s | %s |\n", k.Name, k.Name, k.Severity, cell(k.When))
	}
	return t.String()
}

// problemSections is a section of the runbook for each kind of problem.
func problemSections() string {
	var t strings.Builder
	for _, k := range problems.Kinds() {
		fmt.Fprintf(&t, "\n### %s\n\n**Meaning:** %s. Severity: %s.\n\n**Who suffers:** %s.\n\n**Look:** %s.\n\n**Do:** %s.\n",
			k.Name, cell(k.When), k.Severity, cell(k.Impact), k.Look, cell(k.Do))
	}
	return t.String()
}

// commandSections is a section for each command, by group.
func commandSections(root *cobra.Command) string {
	var t strings.Builder
	for _, g := range root.Groups() {
		fmt.Fprintf(&t, "\n## %s\n", strings.TrimSuffix(g.Title, ":"))
		for _, c := range root.Commands() {
			if c.GroupID != g.ID {
				continue
			}
			fmt.Fprintf(&t, "\n### %s\n\n```\nhubcap %s\n```\n\n%s\n", c.Name(), c.Use, cmp.Or(c.Long, c.Short+"."))
			if c.HasAvailableLocalFlags() {
				fmt.Fprintf(&t, "\n```\n%s```\n", c.LocalFlags().FlagUsages())
			}
		}
	}
	return t.String()
}

var (
	quoted   = regexp.MustCompile(`(^|[ (])'([^' ]+)'`)
	variable = regexp.MustCompile(`\b[A-Z]+(?:_(?:[A-Z]+|<n>))+\b`)
)

// cell makes a text a cell of a Markdown table. What stands in 'single quotes'
// and names of variables are set as code.
func cell(text string) string {
	text = strings.ReplaceAll(text, "|", `\|`)
	text = quoted.ReplaceAllString(text, "$1`$2`")
	return variable.ReplaceAllString(text, "`$0`")
}

// insert puts each table between its two lines of a document.
func insert(text string, tables map[string]string) (string, error) {
	for name, table := range tables {
		before, rest, ok := strings.Cut(text, begin(name))
		_, after, closed := strings.Cut(rest, end)
		if !ok || !closed {
			return "", fmt.Errorf("there are no lines %q and %q", strings.TrimSpace(begin(name)), strings.TrimSpace(end))
		}
		text = before + begin(name) + table + end + after
	}
	return text, nil
}
