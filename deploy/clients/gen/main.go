// Command gen writes the files of deploy/clients: the texts that a box called
// hubcap, with the default configuration, has at /setup.
//
//	go generate ./deploy/clients/gen
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"hubcap/proxy/config"
	"hubcap/proxy/setup"
	"hubcap/proxy/upstream"
)

//go:generate go run . ..

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gen <directory of the files>")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	files, err := texts()
	if err != nil {
		return err
	}
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// clients are the files, and whose they are.
var clients = map[string]string{
	"daemon.json":                 "docker",
	"certs.d/_default/hosts.toml": "containerd",
	"registries.yaml":             "k3s",
	"talos.yaml":                  "talos",
	"registries.conf":             "podman",
	"buildkitd.toml":              "buildkit",
}

// texts returns the files by name.
func texts() (map[string]string, error) {
	c, err := config.Load(nil)
	if err != nil {
		return nil, err
	}
	ports := setup.Mirrors{HubPort: "5000"}
	for _, u := range c.Upstreams {
		ports.Registries = append(ports.Registries, u.Host)
	}
	all := make(map[string]string)
	for name, client := range clients {
		if all[name], err = ports.Box("hubcap:5000", false, upstream.DockerHub).Text(client, setup.Plain); err != nil {
			return nil, err
		}
	}
	// The port of own-registry/hubcap.env.
	all["own-registry/daemon.json"], err = ports.Box("hubcap:5002", false, "registry.example.com").Text("docker", setup.Plain)
	return all, err
}
