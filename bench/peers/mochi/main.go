// mochi-mqtt as a peer of the benchmark: one TCP listener, everybody let in.
package main

import (
	"flag"
	"log"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
)

func main() {
	address := flag.String("listen", "127.0.0.1:1883", "HOST:PORT")
	flag.Parse()

	server := mqtt.New(nil)
	// As in its own benchmark example: its default drops within the windows of the scenarios.
	server.Options.Capabilities.MaximumClientWritesPending = 16 * 1024
	if err := server.AddHook(new(auth.AllowHook), nil); err != nil {
		log.Fatal(err)
	}
	if err := server.AddListener(listeners.NewTCP(listeners.Config{ID: "bench", Address: *address})); err != nil {
		log.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		log.Fatal(err)
	}
	select {}
}
